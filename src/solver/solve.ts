/** Runs the kernel that was chosen, and another one when its answer will not do. */

import type { Job } from '../../workers/job.js';
import { exactFlops } from '../../workers/kernels/exact/cost.js';
import { exactJob, rowsForEstimate } from '../../workers/kernels/exact/gradient.js';
import { type LowRankResult, lowRankJob } from '../../workers/kernels/low-rank/job.js';
import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import { FEATURE_STEPS } from '../../workers/kernels/low-rank/plan/trial/trial.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type {
  AttentionLayer,
  AttentionProblem,
  Contradiction,
  StatesName,
} from '../../workers/problem.js';
import { finiteJob } from '../../workers/tasks/finite.js';
import { Problem } from '../errors.js';
import { type Choice, type ChooseOptions, needsOf, tryPlan } from './choose.js';
import { type EncodedResult, encodePhase, stateGradient } from './encode-phase.js';
import type { PhaseClock } from './phases.js';
import {
  requirePrecision,
  requireTolerance,
  type Sent,
  send,
  type TensorError,
  type TensorErrors,
  withoutCertificate,
} from './send.js';

export interface SolveOptions extends ChooseOptions {
  /** Whether the tolerance was stated in the request, not taken from the default. */
  readonly toleranceStated: boolean;
  /** Told of each phase that is over. */
  readonly clock?: PhaseClock;
}

export interface Solution {
  readonly result: GradientResult;
  readonly tensors: EncodedResult;
  /** By tensor: 'q_proj.lora_A', ...; of `tensors`, as they are sent. */
  readonly error: TensorErrors;
  readonly method: 'exact' | 'low_rank';
  /** Why this kernel, in one sentence. */
  readonly reason: string;
  /** Whether another kernel than the chosen one had to compute it. */
  readonly fallback: boolean;
  /** The last plan of a low-rank run; null: nothing was planned. */
  readonly plan: LowRankPlan | null;
}

type Computed = Pick<Solution, 'result' | 'error'>;
type Solved = Computed & Sent<EncodedResult>;
type Planned = Omit<Solution, 'plan'>;

function* overflowed(result: GradientResult): Job<boolean> {
  const { gradients, inputGradients, sinks, loss, attentionOutput } = result;
  if (!Number.isFinite(loss ?? 0)) return true;
  const tensors: (Float32Array | Float64Array)[] = Object.values(gradients).flatMap(
    ({ lora_A, lora_B }) => [lora_A, lora_B],
  );
  tensors.push(...Object.values(inputGradients ?? {}));
  if (attentionOutput) tensors.push(attentionOutput);
  if (sinks) tensors.push(sinks);
  return !(yield* finiteJob(tensors));
}

/** @throws {Problem} when the result is beyond float64. */
function* inFloat64(problem: AttentionProblem, options: SolveOptions): Job<Solved> {
  const { attentionOutput, inputGradients } = options;
  const result = yield* referenceJob(problem, { attentionOutput, inputGradients });
  if (yield* overflowed(result)) {
    throw new Problem(
      'not-finite',
      'The tensors are finite, but the gradient is too large even for float64.',
    );
  }
  const error: Record<string, TensorError> = {};
  for (const name of Object.keys(result.gradients)) {
    error[`${name}.lora_A`] = withoutCertificate(null);
    error[`${name}.lora_B`] = withoutCertificate(null);
  }
  if (result.sinks) error.sinks = withoutCertificate(null);
  return yield* sent(
    problem,
    { result, error: { ...inputErrors(problem, result), ...error } },
    options,
  );
}

/** Gradients of the inputs that nothing measures: in float64 there is nothing more precise, and low-rank has no figure. */
function inputErrors(
  problem: AttentionProblem,
  { inputGradients }: GradientResult,
): Record<string, TensorError> {
  const names = Object.keys(inputGradients ?? {}) as StatesName[];
  const unknown = withoutCertificate(null, 'Input gradients have none.');
  return Object.fromEntries(names.map((name) => [stateGradient(problem, name), unknown]));
}

/** null: the numbers are too large for float32. */
function* inFloat32(problem: AttentionProblem, options: SolveOptions): Job<Solved | null> {
  const { errors, contradiction, ...result } = yield* exactJob(problem, {
    attentionOutput: options.attentionOutput,
    inputGradients: options.inputGradients,
    estimate: { rows: rowsForEstimate(problem), seed: options.seed },
  });
  if (contradiction) throw contradictory(contradiction);
  if (yield* overflowed(result)) return null;
  const inputs = Object.keys(result.inputGradients ?? {});
  const error = Object.fromEntries(
    Object.entries(errors ?? {}).map(([name, estimate]) => [
      inputs.includes(name) ? stateGradient(problem, name as StatesName) : name,
      withoutCertificate(estimate),
    ]),
  );
  return yield* sent(problem, { result, error }, options);
}

/** What the client knows of its forward pass is refused when it is that of another one. */
function contradictory({ name, batchItem, head, row }: Contradiction): Problem {
  return new Problem(
    'invalid-value',
    `${name} is not that of query, key and value under the masks of this request: it differs at batch item ${batchItem}, head ${head}, row ${row}.`,
    { pointer: `/${name}` },
  );
}

function* sent(
  problem: AttentionProblem,
  { result, error }: Computed,
  { encode, clock }: SolveOptions,
): Job<Solved> {
  clock?.('compute');
  const outcome = yield* send(encodePhase(problem, result, encode), error);
  clock?.('encode');
  return { result, ...outcome };
}

/** Whether the answer is held to the tolerance: not when it only is the default, and a kernel was asked for. */
export function isChecked({ method, toleranceStated }: SolveOptions): boolean {
  return toleranceStated || method === 'auto';
}

/** Floating-point operations of a problem that float64 does in some seconds. */
const FLOAT64_FLOPS = 1e10;

/** @throws {Problem} when the answer as it is sent misses the tolerance. */
function* exactly(
  problem: AttentionProblem,
  options: SolveOptions,
  reason: string,
  fallback: boolean,
): Job<Planned> {
  const { tolerance } = options;
  const single = yield* inFloat32(problem, options);
  if (single && (single.worst <= tolerance || !isChecked(options))) {
    return { ...single, method: 'exact', reason, fallback };
  }
  if (single) {
    requirePrecision(single.rounded, tolerance);
    if (exactFlops(problem, needsOf(problem, options)) > FLOAT64_FLOPS) {
      requireTolerance(single, tolerance);
    }
  }
  const why = single
    ? `In float32 the error is up to ${single.worst.toPrecision(2)}, above the tolerance of ${tolerance}`
    : 'The numbers are too large for float32';
  const double = yield* inFloat64(problem, options);
  if (isChecked(options)) requireTolerance(double, tolerance);
  return { ...double, method: 'exact', reason: `${why}: computed in float64.`, fallback: true };
}

/**
 * @param second This plan was made since another one did not keep its promise.
 * @throws {Problem} when low_rank was asked for and cannot keep what was promised.
 */
function* approximately(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: SolveOptions,
  reason: string,
  second = false,
): Job<Solution> {
  const { seed, correction, attentionOutput, inputGradients, tolerance, method } = options;
  const run = yield* lowRankJob(problem, plan, {
    ...{ seed, correction, attentionOutput, inputGradients },
    certificate: options.certificate ?? false,
  });
  const broken = run.lostRows > 0 || (yield* overflowed(run));
  const solved = broken ? null : yield* sentRun(problem, run, options);
  const worst = solved?.worst ?? Number.POSITIVE_INFINITY;
  const unchecked = options.features !== undefined && !options.toleranceStated;
  if (solved && (worst <= tolerance || unchecked)) {
    return { ...solved, method: 'low_rank', reason, fallback: false, plan };
  }
  if (solved) requirePrecision(solved.rounded, tolerance);
  const missed = missedReason(plan, worst, tolerance);
  const next = second ? null : yield* secondPlan(problem, plan, worst, options);
  if (next) {
    const why = `${missed}: again with ${next.features}.`;
    // Rows that the first run was not judged by.
    return yield* approximately(problem, next, { ...options, seed: seed + 1 }, why, true);
  }
  if (method === 'low_rank') throw yield* toleranceMissed(problem, plan, worst, options);
  return { ...(yield* exactly(problem, options, `${missed}: computed exactly.`, true)), plan };
}

function* sentRun(
  problem: AttentionProblem,
  { errors, lostRows: _, ...result }: LowRankResult,
  options: SolveOptions,
): Job<Solved> {
  const error = { ...errors, ...inputErrors(problem, result) };
  return yield* sent(problem, { result, error }, options);
}

/** Why the answer of the low-rank kernel was not taken. */
export function missedReason(plan: LowRankPlan, worst: number, tolerance: number): string {
  const reached = Number.isFinite(worst)
    ? `an error of up to ${worst.toPrecision(2)}`
    : 'no result';
  return `Low-rank with ${plan.features} features gave ${reached}, above the tolerance of ${tolerance}`;
}

/** A plan that was too hopeful once is held to as much more, and some: a second miss costs more than features. */
function* stricterPlan(
  problem: AttentionLayer & Partial<AttentionProblem>,
  { predictedError }: LowRankPlan,
  worst: number,
  options: ChooseOptions,
): Job<LowRankPlan | null> {
  // A plan's error is relative to the norm of the answer, that of an answer to that of the true gradient.
  const reached = worst / (1 + worst);
  const hopeful = Number.isFinite(worst) ? Math.min(1, predictedError / reached) : 1;
  const tolerance = MARGIN * options.tolerance * hopeful;
  return (yield* tryPlan(problem, { ...options, tolerance, features: undefined })).plan;
}

/** Of the tolerance that a second plan is held to: room for its own bad luck. */
const MARGIN = 0.75;

/** null: none that is expected to do, or exact would be cheaper, where it is allowed. */
function* secondPlan(
  problem: AttentionProblem,
  plan: LowRankPlan,
  worst: number,
  options: SolveOptions,
): Job<LowRankPlan | null> {
  if (options.features !== undefined) return null;
  const next = yield* stricterPlan(problem, plan, worst, options);
  if (!next) return null;
  const stricter = next.meetsTolerance && next.predictedError < plan.predictedError;
  const pays = options.method === 'low_rank' || next.seconds.lowRank < next.seconds.exact;
  return stricter && pays ? next : null;
}

/** Says what was reached, which tolerance that would meet, and which number of features this one. */
export function* toleranceMissed(
  problem: AttentionLayer & Partial<AttentionProblem>,
  plan: LowRankPlan,
  worst: number,
  options: ChooseOptions,
): Job<Problem> {
  const { tolerance } = options;
  const reached = Number.isFinite(worst)
    ? `Low-rank with ${plan.features} features reaches an error of up to ${worst.toPrecision(3)} ` +
      `(99 % confidence), above the tolerance of ${tolerance}. A tolerance of ` +
      `${(1.2 * worst).toPrecision(2)} would do with as many features.`
    : `Low-rank with ${plan.features} features breaks down on this input: its logits are too large.`;
  return new Problem(
    'tolerance-missed',
    `${reached} ${yield* advice(problem, plan, worst, options)}`,
    {
      pointer: '/method',
      ...(Number.isFinite(worst) && { limit: tolerance, actual: worst }),
    },
  );
}

/** The number of features that a plan expects to do, whatever it costs; nothing is extrapolated. */
function* advice(
  problem: AttentionLayer & Partial<AttentionProblem>,
  plan: LowRankPlan,
  worst: number,
  options: ChooseOptions,
): Job<string> {
  const { tolerance } = options;
  const rates = { ...options.rates, exact: Number.MIN_VALUE };
  const other = yield* stricterPlan(problem, plan, worst, { ...options, rates });
  if (other?.meetsTolerance && other.features > plan.features) {
    return `For the tolerance of ${tolerance} the plan expects ${other.features} features to do; the exact kernel always does.`;
  }
  return `No number of features that was tried (up to ${FEATURE_STEPS[FEATURE_STEPS.length - 1]}) is expected to keep the tolerance of ${tolerance}: take the exact kernel.`;
}

export function* solve(
  problem: AttentionProblem,
  { kernel, reason, lowRank }: Choice,
  options: SolveOptions,
): Job<Solution> {
  if (kernel === 'low_rank' && lowRank) {
    return yield* approximately(problem, lowRank, options, reason);
  }
  if (kernel === 'reference') {
    const solved = yield* inFloat64(problem, options);
    if (isChecked(options)) requireTolerance(solved, options.tolerance);
    return { ...solved, method: 'exact', reason, fallback: false, plan: lowRank };
  }
  return { ...(yield* exactly(problem, options, reason, false)), plan: lowRank };
}
