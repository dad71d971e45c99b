/** Exact or low-rank: which of the two computes a problem, and why. */
import { type Job, NumericError } from '../../workers/job.js';
import type { Needs } from '../../workers/kernels/exact/cost.js';
import { mostFullWidthFeatures, type Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import {
  findPlan,
  type LowRankPlan,
  planLowRank,
} from '../../workers/kernels/low-rank/plan/plan.js';
import type { PlanOptions } from '../../workers/kernels/low-rank/plan/plan-options.js';
import type { PlanBudget } from '../../workers/kernels/plan-budget.js';
import type { Planned } from '../../workers/kernels/sampled/plan/stages.js';
import { seesAll } from '../../workers/mask.js';
import {
  type AttentionKind,
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
} from '../../workers/problem.js';
import type { Dtype } from '../../workers/tensor/dtype.js';
import { Problem } from '../errors.js';
import type { METHODS } from '../request/request.js';
import type { EncodeOptions } from './encode-phase.js';
import {
  FLOAT32_TOLERANCE,
  float64Reason,
  missReason,
  noPlanReason,
  notCheaperReason,
  seconds,
  shortReason,
  unpaidReason,
} from './reasons.js';

/** Below so many seconds of exact work, or this length, nothing is planned: low-rank was never faster there. */
export const NOT_WORTH_A_PLAN = 0.25;
export const SHORT = 8192;
/** Widest head that is balanced: the algebra of the plan grows with the cube of the width. */
export const MAX_LOW_RANK_WIDTH = 256;
/** Query heads of all batch items that are planned at most: each has a plan of its own in memory. */
export const MAX_LOW_RANK_HEADS = 4096;

export interface ChooseOptions {
  readonly method: (typeof METHODS)[number];
  /** Relative error in the Frobenius norm allowed for every gradient tensor. */
  readonly tolerance: number;
  /** Low-rank with this number of features, no search. */
  readonly features?: number | undefined;
  /** Sampled with this number of drawn keys, no search. */
  readonly keys?: number | undefined;
  readonly seed: number;
  readonly correction: boolean;
  /** Compute the worst-case bound of a low-rank gradient, too. */
  readonly certificate?: boolean;
  /** How the answer is sent. */
  readonly encode: EncodeOptions;
  readonly attentionOutput: boolean;
  /** The attention output is all that is computed. */
  readonly outputOnly?: boolean;
  /** Whose gradients are wanted beside those of the adapters; absent: none. */
  readonly inputGradients?: AttentionKind | undefined;
  readonly rates: Rates;
}

export interface Choice {
  /** exact: float32; reference: float64, exact too. */
  readonly kernel: 'exact' | 'reference' | 'low_rank' | 'sampled';
  /** One sentence. */
  readonly reason: string;
  /** null: nothing was planned. */
  readonly lowRank: LowRankPlan | null;
  readonly sampled: Planned | null;
}

export function needsOf(
  problem: AttentionLayer & Partial<AttentionProblem>,
  { attentionOutput, inputGradients, outputOnly = false }: ChooseOptions,
): Needs {
  return {
    gradients: !outputOnly,
    output: outputOnly || attentionOutput || problem.objective?.kind === 'target',
    inputGradients: inputGradients !== undefined,
  };
}

/** Why the low-rank kernel does not compute a layer's output, in one sentence; null: it does. */
function lowRankObstacle(layer: AttentionLayer): string | null {
  const { dims, mask } = layer;
  const width = Math.max(dims.headDim, dims.valueDim);
  if (width > MAX_LOW_RANK_WIDTH) {
    return `Low-rank takes heads of up to ${MAX_LOW_RANK_WIDTH} columns; these have ${width}.`;
  }
  const heads = dims.batch * dims.heads;
  if (heads > MAX_LOW_RANK_HEADS) {
    return `Low-rank takes up to ${MAX_LOW_RANK_HEADS} heads of all batch items together; these are ${heads}.`;
  }
  const isPlain = seesAll({
    dims,
    mask: { ...mask, right: mask.right === 0 ? Infinity : mask.right },
  });
  if (!isPlain || mask.keys?.some((at, k) => (k % 2 === 0 ? at > 0 : at === 0))) {
    return 'Low-rank takes no mask but a causal one and padding at the end of the keys.';
  }
  if (layer.softcap !== undefined || layer.sinks) return 'Low-rank takes no soft cap and no sinks.';
  return null;
}

/** The same for a gradient. Low-rank has error figures for adapters only. */
function gradientObstacle(layer: AttentionLayer): string | null {
  const obstacle = lowRankObstacle(layer);
  const adapted = Object.values(layer.projections).some(({ adapter }) => adapter !== null);
  if (obstacle || adapted) return obstacle;
  return hasAttentionStates(layer)
    ? 'Low-rank computes gradients of adapters, not of attention states.'
    : 'Low-rank computes gradients of adapters; this layer has none.';
}

/** Why low-rank does not compute what is asked for; null: it does. */
export function obstacleOf(layer: AttentionLayer, { outputOnly }: ChooseOptions): string | null {
  return outputOnly ? lowRankObstacle(layer) : gradientObstacle(layer);
}

/** @throws {Problem} when the sums of so many features are too large at the full width of a head. */
function requireRoom(layer: AttentionLayer, { features, inputGradients }: ChooseOptions): void {
  const { headDim, valueDim } = layer.dims;
  const most = mostFullWidthFeatures(headDim, valueDim);
  if (features === undefined || features <= most || !(layer.rotary || inputGradients)) return;
  throw new Problem(
    'limit-exceeded',
    `With rotary positions or input gradients low-rank takes up to ${most} features of heads of this width; ${features} were asked for.`,
    { pointer: '/features', limit: most, actual: features },
  );
}

/** Expected error by rounding to a dtype: root mean square, relative. */
const ROUNDING: Readonly<Record<Dtype, number>> = {
  float64: 0,
  float32: 2 ** -25,
  float16: 2 ** -12,
  bfloat16: 2 ** -9,
};
/** A plan is held to at least this share of the tolerance, however much the rounding of the answer takes. */
const LEAST_SHARE = 0.1;

/**
 * What rounding the adapters' gradients leaves of the tolerance. A plan's error is relative to the norm of the answer, the
 * tolerance to that of the true gradient: u / (1 - u) <= tolerance.
 */
export function toleranceOfPlan(
  { projections }: AttentionLayer,
  { tolerance: ofTheTruth, encode }: ChooseOptions,
): number {
  const tolerance = ofTheTruth / (1 + ofTheTruth);
  const adapters = Object.values(projections).flatMap(({ adapter }) => adapter ?? []);
  const dtypes = adapters.flatMap(({ A, B }) => [A.dtype, B.dtype]);
  const rounding =
    encode.outputsDtype === 'float32' ? 0 : Math.max(0, ...dtypes.map((d) => ROUNDING[d]));
  return Math.max(tolerance - rounding, LEAST_SHARE * tolerance);
}

/** What a plan for a gradient, or for the output alone, has to keep. */
function planOptions(layer: AttentionLayer, options: ChooseOptions): PlanOptions {
  const { features, seed, correction, rates, inputGradients, outputOnly = false } = options;
  return {
    ...{ tolerance: toleranceOfPlan(layer, options), seed, correction, rates, outputOnly },
    inputGradients: inputGradients !== undefined,
    ...(features !== undefined && { features }),
  };
}

type Planning<Plan> = { readonly plan: Plan } | { readonly plan: null; readonly reason: string };

/** A plan, or why there can be none: numbers of the input overflow in its algebra. */
function* planned<Plan>(make: () => Job<Plan>): Job<Planning<Plan>> {
  try {
    return { plan: yield* make() };
  } catch (error) {
    if (!(error instanceof NumericError)) throw error;
    return { plan: null, reason: `Low-rank cannot plan for this input. ${error.message}` };
  }
}

/** The plan for a gradient, or for the output alone. */
export function* tryPlan(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
): Job<Planning<LowRankPlan>> {
  return yield* planned(() => planLowRank(problem, planOptions(problem, options)));
}

type WithoutSampled = Omit<Choice, 'sampled'>;

/** The choice where there is no plan. @throws {Problem} when low_rank was asked for. */
function unplanned(reason: string, { method }: ChooseOptions): WithoutSampled {
  if (method !== 'low_rank') return { kernel: 'exact', reason, lowRank: null };
  throw new Problem('tolerance-missed', `${reason} Take the exact kernel.`, { pointer: '/method' });
}

/** The cheaper of exact and low-rank that is expected to keep the tolerance; low_rank when it was asked for. */
export function* chooseLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
  budget: PlanBudget,
): Job<WithoutSampled> {
  const early = withoutPlan(problem, options, budget);
  if (early) return { ...early, lowRank: null };
  const obstacle = obstacleOf(problem, options);
  if (obstacle) return { kernel: 'exact', reason: obstacle, lowRank: null };
  if (options.method !== 'auto') {
    const tried = yield* tryPlan(problem, options);
    if (!tried.plan) return unplanned(tried.reason, options);
    return { ...judge(tried.plan, options), lowRank: tried.plan };
  }
  return yield* findLowRank(problem, options, budget);
}

/** The choice of auto: it plans no further than it takes to see that low-rank does not pay. */
function* findLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
  budget: PlanBudget,
): Job<WithoutSampled> {
  const found = yield* planned(() => findPlan(problem, planOptions(problem, options), budget));
  if (found.plan === null) return unplanned(found.reason, options);
  const { plan } = found;
  if (!('miss' in plan)) return { ...judge(plan, options), lowRank: plan };
  const { miss } = plan;
  const reason = miss
    ? unpaidReason(miss, budget.exact, options.tolerance)
    : noPlanReason(budget.exact);
  return { kernel: 'exact', reason, lowRank: null };
}

/** The choices that need no plan. */
function withoutPlan(
  layer: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
  { exact }: PlanBudget,
): Pick<Choice, 'kernel' | 'reason'> | null {
  const { method, tolerance } = options;
  if (method !== 'low_rank' && tolerance < FLOAT32_TOLERANCE) {
    return { kernel: 'reference', reason: float64Reason(tolerance) };
  }
  if (method === 'exact') return { kernel: 'exact', reason: 'The exact kernel was asked for.' };
  const obstacle = lowRankObstacle(layer);
  if (obstacle) {
    if (method !== 'low_rank') return { kernel: 'exact', reason: obstacle };
    throw new Problem('limit-exceeded', obstacle, { pointer: '/method' });
  }
  if (method === 'low_rank') {
    requireRoom(layer, options);
    return null;
  }
  const reason = hasAttentionStates(layer) ? null : unmeasured(options);
  if (reason) return { kernel: 'exact', reason };
  if (exact < NOT_WORTH_A_PLAN) return { kernel: 'exact', reason: noPlanReason(exact) };
  const { queryLength, keyLength } = layer.dims;
  const short = Math.max(queryLength, keyLength) < SHORT && obstacleOf(layer, options) === null;
  return short ? { kernel: 'exact', reason: shortReason(SHORT) } : null;
}

/** Why auto leaves low-rank where it has no error figure: such an answer cannot be held to a tolerance. */
function unmeasured({ method, inputGradients }: ChooseOptions): string | null {
  if (method !== 'auto' || inputGradients === undefined) return null;
  return 'Gradients of the inputs have an error figure from the exact kernel only: auto takes no other.';
}

/** What the plan says about the kernel to take. */
export function judge(
  plan: LowRankPlan,
  options: ChooseOptions,
): Pick<Choice, 'kernel' | 'reason'> {
  const { method, features } = options;
  const reason = unmeasured(options);
  if (reason) return { kernel: 'exact', reason };
  const m = `${plan.features} features`;
  const [low, exact] = [seconds(plan.seconds.lowRank), seconds(plan.seconds.exact)];
  if (method === 'low_rank') {
    const given = features === undefined ? '' : ' of the request';
    return { kernel: 'low_rank', reason: `Low-rank was asked for; it uses the ${m}${given}.` };
  }
  if (!plan.meetsTolerance) return { kernel: 'exact', reason: missReason(plan, options.tolerance) };
  if (plan.seconds.lowRank >= plan.seconds.exact) {
    return {
      kernel: 'exact',
      reason: notCheaperReason(m, plan.seconds.lowRank, plan.seconds.exact),
    };
  }
  return {
    kernel: 'low_rank',
    reason: `Low-rank with ${m} keeps the tolerance and is cheaper: about ${low} on one thread, exact ${exact}.`,
  };
}
