/**
 * The efficiency threshold of LoRA attention (arXiv 2406.03136).
 *
 * With Q' = sqrt(beta) Q, K' = sqrt(beta) K and the max-abs norm, an almost-linear algorithm exists
 * when Gamma = max(|Q'|, |K'|) = o(sqrt(log L)) and d = O(log L) (Theorem 3.1 for partial, A.1 for full
 * adaptation); for Gamma beyond sqrt(log L) by any factor that grows, no algorithm is truly
 * sub-quadratic unless the Strong Exponential Time Hypothesis fails (Theorem 4.1). The statement is
 * asymptotic: the constant 1 in front of sqrt(ln L) is a convention.
 */

import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import { type ComposedNorms, layerNorms } from '../../workers/kernels/norms.js';
import type { Dimensions } from '../../workers/problem.js';

export interface Threshold {
  /** Gamma: the larger of norms.query and norms.key. */
  readonly gamma: number;
  /** sqrt(ln L) */
  readonly limit: number;
  /** gamma / limit; null where the limit is zero (L = 1). */
  readonly ratio: number | null;
  readonly below_threshold: boolean;
  /** L: the larger of Lq and Lk. */
  readonly sequence_length: number;
  /** d / ln L; null for L = 1. The theorem also needs d = O(log L). */
  readonly head_dim_over_log_length: number | null;
  readonly norms: ComposedNorms;
  /** The same head by head. */
  readonly heads: readonly HeadThreshold[];
}

/** One query head of one batch item. */
export interface HeadThreshold extends Pick<Threshold, 'gamma' | 'below_threshold' | 'norms'> {
  readonly batch_item: number;
  readonly head: number;
}

const gammaOf = ({ query, key }: ComposedNorms): number => Math.max(query, key);

/** @param headNorms of every head of every batch item, heads of a batch item one after the other. */
export function efficiencyThreshold(
  headNorms: readonly ComposedNorms[],
  dims: Dimensions,
): Threshold {
  const length = Math.max(dims.queryLength, dims.keyLength);
  const norms = layerNorms(headNorms);
  const gamma = gammaOf(norms);
  const limit = Math.sqrt(Math.log(length));
  return {
    gamma,
    limit,
    ratio: limit > 0 ? gamma / limit : null,
    below_threshold: gamma < limit,
    sequence_length: length,
    head_dim_over_log_length: limit > 0 ? dims.headDim / Math.log(length) : null,
    norms,
    heads: headNorms.map((one, k) => {
      const batch_item = Math.floor(k / dims.heads);
      const head = k - batch_item * dims.heads;
      const own = gammaOf(one);
      return { batch_item, head, gamma: own, below_threshold: own < limit, norms: one };
    }),
  };
}

/**
 * One sentence where theory and practice differ, else nothing: the threshold is about growing lengths and the
 * worst input with these norms; a kernel is chosen for this length, this input and this machine.
 *
 * @param asked the method of the request.
 */
export function theoryAndPractice(
  { below_threshold, ratio }: Threshold,
  used: 'exact' | 'low_rank' | 'sampled',
  asked: string,
  plan: LowRankPlan | null,
): string {
  if (!below_threshold && used === 'low_rank') {
    return ' The input is above the threshold, where no algorithm is fast for every input; this one needs few features all the same.';
  }
  if (!below_threshold || ratio === null || used !== 'exact' || asked !== 'auto') return '';
  const from = plan?.breakEvenLength;
  const because = from
    ? `an almost-linear algorithm pays from about ${from} rows on`
    : 'an almost-linear algorithm pays only for long inputs';
  return ` The input is below the threshold, and yet exact is the better choice here: ${because}.`;
}
