/** Runs the kernel that was chosen, and another one when its answer misses the tolerance. */

import { type Job, NumericError } from '../../workers/job.js';
import { type LowRankResult, lowRankParts } from '../../workers/kernels/low-rank/job.js';
import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import { FEATURE_STEPS } from '../../workers/kernels/low-rank/plan/trial/trial.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import { Problem } from '../errors.js';
import { type Choice, type ChooseOptions, tryPlan } from './choose-low-rank.js';
import { exactly, inFloat32, inFloat64 } from './exactly.js';
import { bySampling } from './sampled.js';
import { requirePrecision, requireTolerance } from './send.js';
import {
  inputErrors,
  isChecked,
  overflowed,
  type Solution,
  type Solved,
  type SolveOptions,
  sent,
} from './solution.js';

/**
 * @param second this plan was made because a first one missed the tolerance.
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
  const run = yield* attempted(
    lowRankParts(problem, plan, {
      ...{ seed, correction, attentionOutput, inputGradients },
      certificate: options.certificate ?? false,
    }),
  );
  const whole = run && run.lostRows === 0 && !(yield* overflowed(run));
  const solved = whole ? yield* sentRun(problem, run, options) : null;
  const worst = solved?.worst ?? Number.POSITIVE_INFINITY;
  const unchecked = options.features !== undefined && !options.toleranceStated;
  if (solved && (worst <= tolerance || unchecked)) {
    return { ...solved, method: 'low_rank', reason, fallback: false, plan, sampled: null };
  }
  if (solved) requirePrecision(solved.rounded, tolerance);
  const missed = missedReason(plan, worst, tolerance);
  const next = second || !run ? null : yield* secondPlan(problem, plan, worst, options);
  if (next) {
    const why = `${missed}: again with ${next.features}.`;
    // Another seed: fresh rows judge the second run.
    return yield* approximately(problem, next, { ...options, seed: seed + 1 }, why, true);
  }
  if (method === 'low_rank') throw yield* toleranceMissed(problem, plan, worst, options);
  return {
    ...(yield* exactly(problem, options, `${missed}: computed exactly.`, true)),
    plan,
    sampled: null,
  };
}

/** null: its algebra breaks down, or its sums do not fit. */
function* attempted<Result>(job: Job<Result>): Job<Result | null> {
  try {
    return yield* job;
  } catch (error) {
    if (!(error instanceof NumericError)) throw error;
    return null;
  }
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

/** Held to a tolerance that is smaller by as much as the first plan was too hopeful, and some: a second miss costs more than features. */
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

/** A second plan is held to this share of the tolerance: it may have bad luck, too. */
const MARGIN = 0.75;

/** null: no plan is expected to keep the tolerance, or exact is cheaper and allowed. */
export function* secondPlan(
  problem: AttentionLayer & Partial<AttentionProblem>,
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

/** Says which error was reached, which tolerance it would meet, and how many features would meet the tolerance of the request. */
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
    : `Low-rank with ${plan.features} features breaks down on this input: its logits or its sums are too large.`;
  return new Problem(
    'tolerance-missed',
    `${reached} ${yield* advice(problem, plan, worst, options)}`,
    {
      pointer: '/method',
      ...(Number.isFinite(worst) && { limit: tolerance, actual: worst }),
    },
  );
}

/** The number of features that a plan expects to be enough, at any cost. Nothing is extrapolated. */
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
  { kernel, reason, lowRank, sampled }: Choice,
  options: SolveOptions,
): Job<Solution> {
  if (kernel === 'low_rank' && lowRank) {
    return yield* approximately(problem, lowRank, options, reason);
  }
  if (kernel === 'sampled' && sampled) {
    return yield* bySampling(problem, sampled, options, reason);
  }
  if (kernel === 'reference') {
    // Without float32 nothing tells how much of the result is rounding.
    const solved = yield* inFloat64(problem, options, yield* inFloat32(problem, options));
    if (isChecked(options)) requireTolerance(solved, options.tolerance);
    return {
      ...solved,
      method: 'exact',
      reason,
      fallback: false,
      plan: lowRank,
      sampled: sampled?.plan ?? null,
    };
  }
  const exact = yield* exactly(problem, options, reason, false);
  return { ...exact, plan: lowRank, sampled: sampled?.plan ?? null };
}
