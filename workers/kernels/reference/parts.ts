/** Large problems in float64, cut into problems: the cut follows from the problem alone. */
import { type Job, type LargeTask, parts } from '../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../problem.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { joinForward, joinGradients, placed } from '../parts/join.js';
import { takeParts } from '../parts/take.js';
import {
  type ForwardResult,
  type GradientOutputs,
  type GradientResult,
  sharedFloat64,
} from '../result.js';
import { referenceWork } from './cost.js';
import { referenceForwardJob } from './forward.js';
import { referenceJob } from './gradient.js';
import type { ReferenceTask } from './operations.js';

export interface ReferencePart extends LargeTask<GradientResult> {
  readonly kernel: 'reference';
  readonly step: 'gradient';
  readonly problem: AttentionProblem;
  readonly outputs: GradientOutputs;
}

export interface ReferenceForwardPart extends LargeTask<ForwardResult> {
  readonly kernel: 'reference';
  readonly step: 'forward';
  readonly layer: AttentionLayer;
}

export const referenceOf = ({ problem, outputs }: ReferencePart) => referenceJob(problem, outputs);
export const referenceForwardOf = ({ layer }: ReferenceForwardPart) => referenceForwardJob(layer);

type PartsTask = ReferencePart | ReferenceForwardPart | ReferenceTask | BlocksTask;

export function* referenceParts(
  problem: AttentionProblem,
  outputs: GradientOutputs,
  cuts: readonly Cut[] = cutProblem(
    problem,
    { gradients: true, inputGradients: outputs.inputGradients !== undefined },
    referenceWork(problem),
  ),
): Job<GradientResult, PartsTask> {
  const { projectedFrom: _, ...rest } = problem;
  const taken = yield* takeParts(rest, cuts);
  const tasks = taken.map(
    (part): ReferencePart => ({
      ...{ kernel: 'reference', step: 'gradient', problem: part, outputs },
      flops: referenceWork(part),
    }),
  );
  const results = yield* parts(tasks, referenceOf);
  if (results.length === 1) return results[0]!;
  const placedParts = placed(problem, cuts, results);
  const joined = yield* joinGradients(problem, outputs, placedParts, sharedFloat64);
  return { ...joined, loss: problem.objective.kind === 'target' ? joined.loss : null };
}

export function* referenceForwardParts(
  layer: AttentionLayer,
  cuts: readonly Cut[] = cutProblem(
    layer,
    { gradients: false, inputGradients: false },
    referenceWork(layer),
  ),
): Job<ForwardResult, PartsTask> {
  const taken = yield* takeParts(layer, cuts);
  const tasks = taken.map(
    (part): ReferenceForwardPart => ({
      ...{ kernel: 'reference', step: 'forward', layer: part, flops: referenceWork(part) },
    }),
  );
  const results = yield* parts(tasks, referenceForwardOf);
  return results.length === 1
    ? results[0]!
    : yield* joinForward(layer, placed(layer, cuts, results), sharedFloat64);
}
