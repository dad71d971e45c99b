/** The error figures of a low-rank gradient, as the answer shows them. */
import type { Task } from '../../job.js';
import { shared } from '../../tensor/shared-memory.js';
import { frobenius } from '../estimate/estimate.js';
import { type Arithmetic, ROUNDOFF } from './arithmetic/arithmetic.js';
import { estimateTensor } from './error/estimate.js';
import type { Draws } from './error/sampled-rows/draw-rows.js';
import type { SampledRun } from './error/sampled-rows/sampled-run.js';
import { distanceOf, normOf, type TensorEstimate } from './error/tensor-estimate.js';
import { fullWidth } from './head/head.js';
import { tensorOffset } from './head/tensors.js';
import type { LowRankPlan } from './plan/plan.js';

export interface TensorError {
  readonly estimate: {
    readonly relative: number;
    readonly upper: number;
    readonly confidence: 0.99;
    readonly standard_error: number;
    readonly rows_sampled: number;
  };
  readonly certificate: { readonly frobenius: number; readonly relative: number } | null;
  /** Why there is none; absent: there is. */
  readonly certificate_reason?: string;
}

export interface EstimateTask extends Task<TensorEstimate> {
  readonly kernel: 'low_rank';
  readonly step: 'estimate';
  readonly sampled: readonly SampledRun[];
  readonly draws: Draws;
  /** What openDrawnGradients has of the tensor. */
  readonly drawnFeatures: Float64Array;
  readonly tensor: number;
  readonly gradient: Float64Array;
  /** Add the estimated error to the gradient. */
  readonly correction: boolean;
}

export function estimate(
  arithmetic: Arithmetic,
  { sampled, draws, drawnFeatures, tensor, gradient, correction }: EstimateTask,
): TensorEstimate {
  const found = estimateTensor(arithmetic, sampled, draws, drawnFeatures, tensor, gradient.length);
  for (let i = 0; correction && i < gradient.length; i++) gradient[i] += found.mean[i];
  return shared(found);
}

/**
 * Rounding that the estimate does not see, since it forms its rows anew: 64 units of float32, several
 * times what the chain was seen to lose against float64. What is lost where terms cancel is in `terms`.
 */
const ROUNDING = 64 * ROUNDOFF;

interface Circumstances {
  /** Draws of the estimate. */
  readonly rows: number;
  readonly correction: boolean;
  /** Why there is no certificate; null: there is. */
  readonly uncertified: string | null;
}

/** @param size norm of the gradient. @param certificates of the heads; null: none. */
export function tensorError(
  plan: LowRankPlan,
  t: number,
  size: number,
  { mean, terms, ...scatter }: TensorEstimate,
  certificates: readonly (number | null)[],
  { rows, correction, uncertified }: Circumstances,
): TensorError {
  const { standardError, limit } = distanceOf(scatter);
  const { norm, upper } = correction
    ? { norm: standardError, upper: limit }
    : normOf(frobenius(mean), scatter);
  const rounding = ROUNDING * size + ROUNDOFF * terms;
  const bound = joinHeads(plan, certificates, t);
  // A gradient that came out as 0 is off by all of itself, unless it has no terms.
  const over = (x: number) => (size > 0 ? x / size : x > 0 ? 1 : 0);
  return {
    estimate: {
      relative: over(norm),
      upper: over(upper + rounding),
      confidence: 0.99,
      standard_error: over(standardError),
      rows_sampled: rows,
    },
    ...(bound === null
      ? { certificate: null, certificate_reason: uncertified ?? VOID }
      : { certificate: { frobenius: bound, relative: over(bound) } }),
  };
}

const VOID = 'The worst case is beyond any bound: the features could lose the sum of a row.';

/** Why a run computes no certificate; null: it does. */
export function withoutCertificate(
  plan: Pick<LowRankPlan, 'heads'>,
  options: { readonly certificate: boolean; readonly correction: boolean },
): string | null {
  if (!options.certificate) return 'It was not asked for: certificate is false.';
  if (options.correction) return 'A corrected gradient has none.';
  const [head] = plan.heads;
  if (fullWidth(head).scores) {
    return 'With rotary positions or input gradients there is none: it is for one number of features.';
  }
  return head.causal ? 'Under a causal mask there is none.' : null;
}

/**
 * Bound of a whole tensor from those of its heads: heads share lora_A and add up; in lora_B each has
 * rows of its own, and only batch items and grouped query heads add up.
 */
function joinHeads(
  plan: LowRankPlan,
  bounds: readonly (number | null)[],
  t: number,
): number | null {
  const perPart = new Map<number, number>();
  for (const [h, bound] of bounds.entries()) {
    if (bound === null) return null;
    const part = tensorOffset(plan.heads[h], t);
    perPart.set(part, (perPart.get(part) ?? 0) + bound);
  }
  let square = 0;
  for (const bound of perPart.values()) square += bound * bound;
  return Math.sqrt(square);
}
