/** Which kernel computes a problem, and why. */
import type { Job } from '../../workers/kernels/job.js';
import type { Rates } from '../../workers/kernels/low-rank/cost.js';
import { type LowRankPlan, planLowRank } from '../../workers/kernels/low-rank/plan.js';
import { Problem } from '../errors.js';
import type { AttentionKind, AttentionLayer, AttentionProblem } from '../lora/problem.js';
import type { METHODS } from '../lora/request.js';
import { exactFlops, type Needs } from './cost.js';

/** Below this relative error float32 can promise nothing. */
const FLOAT32_TOLERANCE = 1e-5;
/** Seconds of exact work, and a length, that are not worth a plan: below, low-rank was never faster. */
const NOT_WORTH_A_PLAN = 0.05;
const SHORT = 8192;
/** Widest head that is balanced: the algebra of the plan grows with the cube of the width. */
export const MAX_LOW_RANK_WIDTH = 256;

export interface ChooseOptions {
  readonly method: (typeof METHODS)[number];
  /** Relative error in the Frobenius norm allowed for every gradient tensor. */
  readonly tolerance: number;
  /** Low-rank with this number of features, no search. */
  readonly features?: number | undefined;
  readonly seed: number;
  readonly attentionOutput: boolean;
  /** Whose gradients are wanted beside those of the adapters; absent: none. */
  readonly inputGradients?: AttentionKind | undefined;
  readonly rates: Rates;
}

export interface Choice {
  /** exact: float32; reference: float64, exact too. */
  readonly kernel: 'exact' | 'reference' | 'low_rank';
  /** One sentence. */
  readonly reason: string;
  /** null: nothing was planned. */
  readonly lowRank: LowRankPlan | null;
}

function isAdapted(layer: AttentionLayer): boolean {
  return Object.values(layer.projections).some(({ adapter }) => adapter !== null);
}

/** What keeps the low-rank kernel from a problem, or null. */
function needsExact(layer: AttentionLayer, { inputGradients }: ChooseOptions): string | null {
  if (inputGradients) return 'input_gradients';
  return layer.rotary ? 'cos and sin' : null;
}

export function needsOf(
  problem: AttentionLayer & Partial<AttentionProblem>,
  { attentionOutput, inputGradients }: ChooseOptions,
): Needs {
  return {
    output: attentionOutput || problem.objective?.kind === 'target',
    inputGradients: inputGradients !== undefined,
  };
}

/** Whether the low-rank kernel takes the layer at all. */
export function isPlannable(layer: AttentionLayer, options: ChooseOptions): boolean {
  const { headDim, valueDim } = layer.dims;
  const narrow = Math.max(headDim, valueDim) <= MAX_LOW_RANK_WIDTH;
  return isAdapted(layer) && narrow && !needsExact(layer, options);
}

function percent(x: number): string {
  return `${(100 * x).toPrecision(2)} %`;
}

function seconds(x: number): string {
  return x < 1 ? `${(1000 * x).toPrecision(2)} ms` : `${x.toPrecision(2)} s`;
}

/** The cheapest kernel that is expected to keep the tolerance; low_rank when it was asked for. */
export function* choose(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
): Job<Choice> {
  const { method, tolerance, features, seed, rates } = options;
  if (method !== 'low_rank' && tolerance < FLOAT32_TOLERANCE) {
    return { kernel: 'reference', reason: float64Reason(tolerance), lowRank: null };
  }
  if (method === 'exact') {
    return { kernel: 'exact', reason: 'The exact kernel was asked for.', lowRank: null };
  }
  const exactOnly = needsExact(problem, options);
  if (exactOnly) return { kernel: 'exact', reason: exactReason(exactOnly, method), lowRank: null };
  const { headDim, valueDim, queryLength, keyLength } = problem.dims;
  if (!isPlannable(problem, options)) {
    if (method === 'low_rank' && isAdapted(problem)) {
      throw new Problem(
        'limit-exceeded',
        `Low-rank takes heads of up to ${MAX_LOW_RANK_WIDTH} columns; these have ${Math.max(headDim, valueDim)}.`,
        { pointer: '/method', limit: MAX_LOW_RANK_WIDTH, actual: Math.max(headDim, valueDim) },
      );
    }
    return { kernel: 'exact', reason: 'Low-rank does not take this layer.', lowRank: null };
  }
  const exactSeconds = exactFlops(problem, needsOf(problem, options)) / rates.exact;
  const short = Math.max(queryLength, keyLength) < SHORT;
  if (method === 'auto' && (short || exactSeconds < NOT_WORTH_A_PLAN)) {
    const reason = `The exact kernel takes about ${seconds(exactSeconds)} on one thread: not worth a plan.`;
    return { kernel: 'exact', reason, lowRank: null };
  }
  const lowRank = yield* planLowRank(problem, {
    tolerance,
    seed,
    rates,
    ...(features !== undefined && { features }),
  });
  return { ...judge(lowRank, options), lowRank };
}

/** @throws {Problem} when low_rank was asked for: there is an exact kernel for the output alone. */
export function chooseForward(options: ChooseOptions): Omit<Choice, 'lowRank'> {
  const { method, tolerance } = options;
  if (method === 'low_rank') exactReason('a request without an objective', method);
  if (tolerance < FLOAT32_TOLERANCE)
    return { kernel: 'reference', reason: float64Reason(tolerance) };
  return { kernel: 'exact', reason: 'The attention output alone is computed by the exact kernel.' };
}

function float64Reason(tolerance: number): string {
  return `The tolerance of ${tolerance} is below what float32 can keep (${FLOAT32_TOLERANCE}): computed in float64.`;
}

/** @throws {Problem} when low_rank was asked for all the same. */
function exactReason(keys: string, method: ChooseOptions['method']): string {
  if (method === 'low_rank') {
    throw new Problem(
      'conflicting-keys',
      `The low-rank kernel does not take ${keys}: leave the method to auto, or ask for exact.`,
      { pointer: '/method' },
    );
  }
  return `Only the exact kernel takes ${keys}.`;
}

/** What the plan says about the kernel to take. */
export function judge(
  plan: LowRankPlan,
  { method, tolerance, features }: ChooseOptions,
): Pick<Choice, 'kernel' | 'reason'> {
  const m = `${plan.features} features`;
  const [low, exact] = [seconds(plan.seconds.lowRank), seconds(plan.seconds.exact)];
  if (method === 'low_rank') {
    const given = features === undefined ? '' : ' of the request';
    return { kernel: 'low_rank', reason: `Low-rank was asked for; it uses the ${m}${given}.` };
  }
  if (!plan.meetsTolerance) {
    const error = percent(plan.predictedError);
    return {
      kernel: 'exact',
      reason: `With ${m}, the most that pay, low-rank would reach an error of ${error}, above the tolerance of ${percent(tolerance)}.`,
    };
  }
  if (plan.seconds.lowRank >= plan.seconds.exact) {
    return {
      kernel: 'exact',
      reason: `The exact kernel is cheaper at this length: about ${exact} on one thread, low-rank with ${m} ${low}.`,
    };
  }
  return {
    kernel: 'low_rank',
    reason: `Low-rank with ${m} keeps the tolerance and is cheaper: about ${low} on one thread, exact ${exact}.`,
  };
}
