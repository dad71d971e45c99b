/** From the sums of all sampled rows to the figures in the answer. */

import {
  type ErrorEstimate,
  type ErrorSums,
  estimateError,
  frobenius,
} from '../estimate/estimate.js';
import { ROWS } from '../inner/block.js';
import type { ParameterGradients } from '../result.js';
import { CONTRACT_TOKENS, type ExactPlan } from './plan.js';

export type SumsByTensor = Readonly<Record<string, ErrorSums>>;

/** @param summation relative error of adding up. */
export function estimateErrors(
  gradients: ParameterGradients,
  sums: readonly SumsByTensor[],
  summation: number,
): ErrorEstimates {
  return Object.fromEntries(
    tensorsOf(gradients).map(([name, gradient]) => {
      const parts = sums.map((record) => record[name]!);
      return [name, estimateError(parts, frobenius(gradient), summation)];
    }),
  );
}

export type ErrorEstimates = Readonly<Record<string, ErrorEstimate>>;

/** 'q_proj.lora_A' and so on, with the gradient. */
export function tensorsOf({ gradients, sinks }: ParameterGradients): [string, Float64Array][] {
  const adapters = Object.entries(gradients).flatMap(([projection, { lora_A, lora_B }]) => [
    [`${projection}.lora_A`, lora_A] as [string, Float64Array],
    [`${projection}.lora_B`, lora_B] as [string, Float64Array],
  ]);
  return sinks ? [...adapters, ['sinks', sinks]] : adapters;
}

/**
 * Relative error of sums of float32, as a random walk: each of n additions rounds a partial sum, which
 * on average is smaller than the whole, by at most 2^-24. The longest chains are those of a lane over
 * its rows and of a contraction over its tokens; all longer sums are made in float64.
 */
export function summationError(plan: ExactPlan): number {
  const { queryLength, keyLength } = plan.problem.dims;
  const rowsOfLane = Math.min(queryLength, ROWS * Math.ceil(plan.blocks / plan.lanes));
  const tokens = Math.min(Math.max(queryLength, keyLength), CONTRACT_TOKENS);
  return 2 ** -24 * Math.sqrt(Math.max(rowsOfLane, tokens) / 2);
}
