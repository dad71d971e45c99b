/** Which of all kernels computes a problem, and why. */
import type { Job } from '../../workers/job.js';
import { exactWork } from '../../workers/kernels/exact/cost.js';
import { PlanBudget } from '../../workers/kernels/plan-budget.js';
import { leastWork } from '../../workers/kernels/sampled/plan/cost.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import {
  type Choice,
  type ChooseOptions,
  chooseLowRank,
  NOT_WORTH_A_PLAN,
  needsOf,
  obstacleOf,
  SHORT,
} from './choose-low-rank.js';
import { drawsNotWorthAPlan, FLOAT32_TOLERANCE, percent, seconds } from './reasons.js';
import { isMeasured, sampledObstacle, sampledSeconds, trySampled } from './sampled.js';

type Layer = AttentionLayer & Partial<AttentionProblem>;

/** Below this length near keys are most of all keys. */
const SHORT_FOR_SAMPLED = 2048;
/** Below this tolerance draws were never cheaper than exact on a trained model. */
const LEAST_TOLERANCE = 0.03;

/** Why no keys are drawn; null: a plan has to say whether draws pay. Empty: the choice of another kernel says why. */
function whyNotSampled(layer: Layer, options: ChooseOptions): string | null {
  const obstacle = sampledObstacle(layer, options);
  if (options.method === 'sampled') return obstacle;
  if (options.method !== 'auto' || !isMeasured(layer, options)) return '';
  const { rates } = options;
  const exact = exactWork(layer, needsOf(layer, options), rates.pairs) / rates.exact;
  const { queryLength, keyLength } = layer.dims;
  const short = Math.max(queryLength, keyLength) < SHORT_FOR_SAMPLED;
  if (short || exact < NOT_WORTH_A_PLAN) return '';
  if (obstacle) return obstacle;
  if (options.tolerance < LEAST_TOLERANCE) {
    return `Drawn keys pay for tolerances of ${LEAST_TOLERANCE} and more.`;
  }
  const least = leastWork(layer, needsOf(layer, options)) / rates.exact;
  return least > exact ? drawsNotWorthAPlan(least, exact) : null;
}

/** Which kernels may have to run; `dryRun`: for a plan alone. */
export function kernelsOf(
  layer: Layer,
  options: ChooseOptions,
  dryRun: boolean,
): Readonly<Record<'exact' | 'lowRank' | 'sampled' | 'reference', boolean>> {
  const { method, tolerance } = options;
  const { queryLength, keyLength } = layer.dims;
  const plannable = obstacleOf(layer, options) === null;
  const float64 = method !== 'low_rank' && tolerance < FLOAT32_TOLERANCE;
  const long = Math.max(queryLength, keyLength) >= SHORT;
  const planned = method === 'low_rank' || (method === 'auto' && long && !float64);
  return {
    exact: !dryRun && !(method === 'low_rank' && plannable),
    lowRank: plannable && ((dryRun && method !== 'sampled') || planned),
    sampled: !float64 && whyNotSampled(layer, options) === null,
    reference: dryRun ? !plannable : float64,
  };
}

/** The cheapest kernel that is expected to keep the tolerance, or the one that was asked for. */
export function* choose(problem: Layer, options: ChooseOptions): Job<Choice> {
  const { rates } = options;
  const exact = exactWork(problem, needsOf(problem, options), rates.pairs) / rates.exact;
  const budget = new PlanBudget(exact);
  const first = yield* withoutDraws(problem, options, budget);
  if (first.kernel === 'reference') return { ...first, sampled: null };
  const why = whyNotSampled(problem, options);
  if (why !== null) return { ...withoutDrawn(first, why, options), sampled: null };
  const other = first.kernel === 'low_rank' ? first.lowRank!.seconds.lowRank : exact;
  /** Before the first look it is not known how much draws would save. */
  const affords = (work: number, whole?: number) =>
    budget.affords(work / rates.exact, whole === undefined ? 0 : other - whole / rates.exact);
  const tried = yield* trySampled(
    problem as AttentionProblem,
    options,
    options.method === 'auto' ? affords : null,
  );
  if (!tried.planned) return { ...withoutDrawn(first, tried.reason, options), sampled: null };
  const { planned } = tried;
  return {
    ...judgeSampled(problem as AttentionProblem, planned, first, options),
    sampled: planned,
  };
}

/** Exact or low-rank, and why no keys are drawn: exact is chosen against both. */
function withoutDrawn(
  first: Omit<Choice, 'sampled'>,
  why: string,
  { method }: ChooseOptions,
): Omit<Choice, 'sampled'> {
  if (method === 'sampled') return { ...first, reason: why };
  const both = method === 'auto' && first.kernel === 'exact' && why !== '';
  return both ? { ...first, reason: `${first.reason} ${why}` } : first;
}

/** Exact or low-rank; nothing is planned where sampled was asked for. */
function* withoutDraws(
  problem: Layer,
  options: ChooseOptions,
  budget: PlanBudget,
): Job<Omit<Choice, 'sampled'>> {
  const method = options.method === 'sampled' ? 'exact' : options.method;
  return yield* chooseLowRank(problem, { ...options, method }, budget);
}

function judgeSampled(
  problem: AttentionProblem,
  { plan }: NonNullable<Choice['sampled']>,
  first: Omit<Choice, 'sampled'>,
  options: ChooseOptions,
): Omit<Choice, 'sampled'> {
  const { method, keys, tolerance } = options;
  const n = `${plan.keys} keys drawn for a block of rows`;
  if (method === 'sampled') {
    const given = keys === undefined ? '' : ', as in the request';
    const what =
      plan.keys > 0
        ? `it has ${n}${given}`
        : 'no head is expected to gain by draws: all have all keys';
    return { ...first, kernel: 'sampled', reason: `Sampled was asked for; ${what}.` };
  }
  const cost = sampledSeconds(problem, plan, options);
  const other =
    first.lowRank && first.kernel === 'low_rank' ? first.lowRank.seconds.lowRank : cost.exact;
  if (!plan.meetsTolerance) {
    return withoutDrawn(
      first,
      `No number of drawn keys is expected to keep the tolerance of ${percent(tolerance)}.`,
      options,
    );
  }
  if (cost.sampled >= other) {
    const why = `Drawn keys would take about ${seconds(cost.sampled)} on one thread, exact ${seconds(cost.exact)}.`;
    return withoutDrawn(first, why, options);
  }
  const name = first.kernel === 'low_rank' ? 'low-rank' : 'exact';
  return {
    ...first,
    kernel: 'sampled',
    reason: `Sampled with ${n} is expected to keep the tolerance of ${percent(tolerance)} and is cheaper: about ${seconds(cost.sampled)} on one thread, ${name} ${seconds(other)}.`,
  };
}
