/** From the sums of all sampled rows to the figures in the answer. */

import type { ProjectionName } from '../../problem.js';
import type { TensorData } from '../../tensor/tensor.js';
import {
  type ErrorEstimate,
  type ErrorSums,
  estimateError,
  frobenius,
} from '../estimate/estimate.js';
import { ROWS } from '../inner/block.js';
import type { ParameterGradients } from '../result.js';
import { CONTRACT_TOKENS, type ExactPlan, type Workspace } from './plan.js';

export type SumsByTensor = Readonly<Record<string, ErrorSums>>;

/** What is known after the last wave. */
export interface Sampled {
  /** Of all sampled rows. */
  readonly sums: readonly SumsByTensor[];
  /** No logit exceeds it. */
  readonly logit: number;
}

/** A logit is rounded to float32, and its weight is off by as much of itself as the logit in numbers. */
const LOGIT_ROUNDING = 2 ** -24;

/** beta |q| |k| of the longest queries and keys of a wave. */
export function largestLogit({ problem }: ExactPlan, { largestQ, largestK }: Workspace): number {
  const largest = (norms: Float32Array) => norms.reduce((a, b) => Math.max(a, b), 0);
  const logit = problem.scaling * largest(largestQ) * largest(largestK);
  return problem.softcap ? Math.min(logit, problem.softcap) : logit;
}

export function estimateErrors(
  plan: ExactPlan,
  gradients: ParameterGradients,
  { sums, logit }: Sampled,
): ErrorEstimates {
  const rounding = summationError(plan) + LOGIT_ROUNDING * logit;
  return Object.fromEntries(
    tensorsOf(gradients).map(([name, gradient]) => {
      const parts = sums.map((record) => record[name]!);
      const norm = frobenius(gradient);
      return [
        name,
        estimateError(parts, { norm, rounding, vanishes: norm === 0 && vanishes(plan, name) }),
      ];
    }),
  );
}

/** Whether a gradient is 0 whatever the softmax: its adapter's other factor is 0, G is, or rows see one key each. */
function vanishes({ problem }: ExactPlan, name: string): boolean {
  const [projection, tensor] = name.split('.') as [ProjectionName | 'sinks', string];
  const isZero = (data: TensorData) => data.every((x) => x === 0);
  const { objective, dims } = problem;
  if (objective?.kind === 'grad_output' && isZero(objective.tensor.data)) return true;
  if (projection === 'sinks') return false;
  const { A, B } = problem.projections[projection].adapter!;
  if (isZero((tensor === 'lora_A' ? B : A).data)) return true;
  return projection !== 'v_proj' && dims.keyLength === 1;
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
function summationError(plan: ExactPlan): number {
  const { queryLength, keyLength } = plan.problem.dims;
  const rowsOfLane = Math.min(queryLength, ROWS * Math.ceil(plan.blocks / plan.lanes));
  const tokens = Math.min(Math.max(queryLength, keyLength), CONTRACT_TOKENS);
  return 2 ** -24 * Math.sqrt(Math.max(rowsOfLane, tokens) / 2);
}
