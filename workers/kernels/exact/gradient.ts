/**
 * The LoRA gradients of an attention layer, exact up to float32 rounding, as a job: sums over the rows of
 * the problem or of the parts that a large one is cut into, then the figures of the rounding error.
 */

import { type Job, type LargeTask, parts, stage, type Task } from '../../job.js';
import {
  type AttentionKind,
  type AttentionProblem,
  type Contradiction,
  hasAttentionStates,
} from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { type ExactPlan, makePlan } from '../attention/plan.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { takeParts } from '../parts/take.js';
import { type GradientOutputs, type GradientResult, tensorsOf } from '../result.js';
import { exactWork } from './cost.js';
import type { ErrorEstimates, EstimateTask, Samples } from './error/estimate.js';
import { drawsOfPart } from './error/row-samples.js';
import { stateErrors } from './error/sample-states.js';
import { joinSums } from './join.js';
import { type ExactOptions, type ExactSums, exactSums, type SumsTask } from './sums.js';
import { wholeStage } from './tasks.js';

/** A part of a problem, a problem by itself. It may run on another machine. */
export interface SumsPart extends LargeTask<ExactSums> {
  readonly kernel: 'exact';
  readonly step: 'sums';
  readonly problem: AttentionProblem;
  readonly options: ExactOptions;
}

/** All of a problem that is too small to be shared. */
interface WholeTask extends Task<ExactResult> {
  readonly kernel: 'exact';
  readonly step: 'whole';
  readonly problem: AttentionProblem;
  readonly options: ExactOptions;
}

export type GradientTask = SumsTask | SumsPart | EstimateTask | BlocksTask | WholeTask;

export type { ExactOptions };

export interface ExactResult extends GradientResult {
  /** Estimates by tensor, 'q_proj.lora_A' and so on; null when not asked for. */
  readonly errors: ErrorEstimates | null;
  /** Where the client's log_sum_exp or output is not that of these inputs; null: nowhere. */
  readonly contradiction: Contradiction | null;
}

/** In one task where a problem is too small to be shared between threads; the same result bit by bit. */
export function* exactJob(
  problem: AttentionProblem,
  options: ExactOptions,
): Job<ExactResult, GradientTask> {
  const task: WholeTask = { kernel: 'exact', step: 'whole', problem, options };
  const whole = wholeStage(makePlan(problem, options), task);
  if (!whole) return yield* exactParts(problem, options);
  return (yield whole)[0] as ExactResult;
}

/** The cut follows from the problem alone: the answer is the same wherever the parts run. */
export function* exactParts(
  problem: AttentionProblem,
  options: ExactOptions,
  cuts: readonly Cut[] = cutsOf(problem, options),
): Job<ExactResult, GradientTask> {
  // Only the sampled kernel needs it.
  const { projectedFrom: _, ...rest } = problem;
  const memory = new Lease();
  const taken = yield* takeParts(rest, cuts, memory);
  const tasks = taken.map(
    (part, k): SumsPart => ({
      ...{ kernel: 'exact', step: 'sums', problem: part },
      options: optionsOfPart(problem, options, cuts, k),
      flops: workOf(part, options),
    }),
  );
  const sums = yield* parts(tasks, sumsOf);
  memory.end();
  return yield* estimated(problem, options, yield* joinSums(problem, options, cuts, sums));
}

/** Work of the exact kernel, flops. */
function workOf(problem: AttentionProblem, options: GradientOutputs): number {
  return exactWork(problem, {
    output: options.attentionOutput || problem.objective.kind === 'target',
    gradients: true,
    inputGradients: options.inputGradients !== undefined,
  });
}

export function cutsOf(problem: AttentionProblem, options: GradientOutputs): Cut[] {
  const needs = { gradients: true, inputGradients: options.inputGradients !== undefined };
  return cutProblem(problem, needs, workOf(problem, options));
}

function optionsOfPart(
  problem: AttentionProblem,
  options: ExactOptions,
  cuts: readonly Cut[],
  part: number,
): ExactOptions {
  const { estimate } = options;
  if (!estimate || cuts.length === 1) return options;
  return { ...options, estimate: drawsOfPart(problem, estimate, cuts[part]!, part) };
}

export const sumsOf = ({ problem, options }: SumsPart): Job<ExactSums, SumsTask> =>
  exactSums(problem, options);

/** All of a problem without a cut. */
export function* exactStages(
  problem: AttentionProblem,
  options: ExactOptions,
  plan?: ExactPlan,
): Job<ExactResult, SumsTask | EstimateTask> {
  return yield* estimated(problem, options, yield* exactSums(problem, options, plan));
}

/** Adds the error figures to the sums: what the samples say about each gradient. */
function* estimated(
  problem: AttentionProblem,
  options: ExactOptions,
  { samples, ...sums }: ExactSums,
): Job<ExactResult, EstimateTask> {
  const { objective } = problem;
  const loss = objective.kind === 'target' ? sums.loss : null;
  const { estimate, inputGradients: kind } = options;
  const errors = estimate ? yield* roundingErrors(problem, sums, samples, kind) : null;
  return { ...sums, loss, errors };
}

/**
 * What the samples say about each gradient; null: there is none.
 *
 * @param kind whose gradients `inputGradients` are.
 */
export function* roundingErrors(
  problem: AttentionProblem,
  { gradients, sinks, inputGradients }: Pick<ExactSums, 'gradients' | 'sinks' | 'inputGradients'>,
  samples: Samples,
  kind: AttentionKind | undefined,
): Job<ErrorEstimates | null, EstimateTask> {
  if (hasAttentionStates(problem) && inputGradients !== null) {
    return stateErrors(samples.states, samples.squares, samples.rounding);
  }
  const totals = { gradients, sinks };
  if (tensorsOf(totals).length === 0 && !inputGradients) return null;
  const task: EstimateTask = {
    ...{ kernel: 'exact', step: 'estimate', problem, totals, samples, inputGradients, kind },
  };
  return (yield* stage('estimate', [task]))[0]!;
}
