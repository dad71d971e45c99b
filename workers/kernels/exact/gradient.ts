/**
 * The LoRA gradients of an attention layer, exact up to float32 rounding, as a job: sums over the rows of
 * the problem or of the parts that a large one is cut into, then the figures of the rounding error.
 */

import { type Job, type LargeTask, parts, stage, type Task } from '../../job.js';
import { type AttentionProblem, type Contradiction, hasAttentionStates } from '../../problem.js';
import { type ExactPlan, makePlan } from '../attention/plan.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { seedOf, shareOf, takeParts } from '../parts/take.js';
import { type GradientOutputs, type GradientResult, tensorsOf } from '../result.js';
import { exactWork } from './cost.js';
import type { ErrorEstimates, EstimateTask } from './error/estimate.js';
import { stateErrors } from './error/sample-states.js';
import { joinSums } from './join.js';
import { type ExactOptions, type ExactSums, exactSums, type SumsTask } from './sums.js';
import { fitsOneTask } from './tasks.js';

/** A part of a problem, a problem by itself. It may run on another machine. */
export interface SumsPart extends LargeTask<ExactSums> {
  readonly kernel: 'exact';
  readonly step: 'sums';
  readonly problem: AttentionProblem;
  readonly options: ExactOptions;
}

/** All of a problem that is too small to be shared. */
export interface WholeTask extends Task<ExactResult> {
  readonly kernel: 'exact';
  readonly step: 'whole';
  readonly problem: AttentionProblem;
  readonly options: ExactOptions;
}

export type GradientTask = SumsTask | SumsPart | EstimateTask | BlocksTask | WholeTask;

export type { ExactOptions };

export interface ExactResult extends GradientResult {
  /** By tensor, 'q_proj.lora_A' and so on; null when not asked for. */
  readonly errors: ErrorEstimates | null;
  /** Where the client's forward pass is another one; null: nowhere. The gradients do not rest on it. */
  readonly contradiction: Contradiction | null;
}

/** Draws that tell how much the rows of a part scatter. */
const LEAST_DRAWS = 4;
/** Passes over the inputs for the keys' adapter under rotary positions: each row takes its rank of them. */
const ROTATED_PASSES = 192;

/** Enough rows for a figure of the right size, at a small share of the cost. */
export function rowsForEstimate({ dims, rotary, projections }: AttentionProblem): number {
  const all = dims.batch * dims.heads * dims.queryLength;
  const rows = Math.min(32, Math.max(8, Math.min(16, Math.ceil(all / 32)), Math.ceil(all / 128)));
  const rank = rotary ? (projections.k_proj.adapter?.rank ?? 0) : 0;
  return rank ? Math.min(rows, Math.max(8, Math.floor(ROTATED_PASSES / rank))) : rows;
}

/** The same result, bit by bit, in one task or in many: a small problem is not worth the ways between threads. */
export function* exactJob(
  problem: AttentionProblem,
  options: ExactOptions,
): Job<ExactResult, GradientTask> {
  if (!fitsOneTask(makePlan(problem, options))) return yield* exactParts(problem, options);
  const whole: WholeTask = { kernel: 'exact', step: 'whole', problem, options };
  const [result] = yield { name: 'whole', tasks: [whole], span: [0, 1] };
  return result as ExactResult;
}

/** The cut follows from the problem alone: the answer is the same wherever the parts run. */
export function* exactParts(
  problem: AttentionProblem,
  options: ExactOptions,
  cuts: readonly Cut[] = cutsOf(problem, options),
): Job<ExactResult, GradientTask> {
  // Of no use here.
  const { projectedFrom: _, ...rest } = problem;
  const taken = yield* takeParts(rest, cuts);
  const tasks = taken.map(
    (part, k): SumsPart => ({
      ...{ kernel: 'exact', step: 'sums', problem: part },
      options: optionsOfPart(problem, options, cuts, k),
      flops: workOf(part, options),
    }),
  );
  const sums = yield* parts(tasks, sumsOf);
  return yield* estimated(problem, options, yield* joinSums(problem, options, cuts, sums));
}

/** In flops. */
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

/** Its share of the draws, and a seed of its own. */
function optionsOfPart(
  problem: AttentionProblem,
  options: ExactOptions,
  cuts: readonly Cut[],
  part: number,
): ExactOptions {
  const { estimate } = options;
  if (!estimate || cuts.length === 1) return options;
  const rows = Math.max(LEAST_DRAWS, Math.ceil(estimate.rows * shareOf(problem, cuts[part]!)));
  return { ...options, estimate: { rows, seed: seedOf(estimate.seed, part) } };
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

/** From sums to an answer: what the samples say about each gradient. */
function* estimated(
  problem: AttentionProblem,
  options: ExactOptions,
  { samples, ...sums }: ExactSums,
): Job<ExactResult, EstimateTask> {
  const { gradients, sinks, inputGradients } = sums;
  const isStates = hasAttentionStates(problem) && inputGradients !== null;
  const totals = { gradients, sinks };
  let errors: ErrorEstimates | null = null;
  if (options.estimate && isStates) {
    errors = stateErrors(samples.states, samples.squares, samples.rounding);
  } else if (options.estimate && (tensorsOf(totals).length > 0 || inputGradients)) {
    const task: EstimateTask = {
      ...{ kernel: 'exact', step: 'estimate', problem, totals, samples, inputGradients },
      kind: options.inputGradients,
    };
    [errors] = yield* stage('estimate', [task]);
  }
  return { ...sums, loss: problem.objective.kind === 'target' ? sums.loss : null, errors };
}
