/** The six gradient tensors of the low-rank kernel, and the part of each that belongs to a head. */
import type { AttentionLayer } from '../../../problem.js';
import { sharedFloat64 } from '../../result.js';
import type { Head } from './head.js';

/** The six gradient tensors of a head, in the order used everywhere in this kernel. */
export const TENSORS = [
  'q_proj.lora_A',
  'q_proj.lora_B',
  'k_proj.lora_A',
  'k_proj.lora_B',
  'v_proj.lora_A',
  'v_proj.lora_B',
] as const;
export type TensorName = (typeof TENSORS)[number];

/** s beta for q_proj and k_proj, s for v_proj: the factor of tensor t of a head. */
export function tensorScale(head: Head, t: number): number {
  const projection = [head.query, head.key, head.value][t >> 1];
  return projection.adapterScaling * (t < 4 ? head.beta : 1);
}

/** Where tensor t of a head stands in the whole tensor: lora_A is shared, lora_B has rows per head. */
export function tensorOffset(head: Head, t: number): number {
  const { d, dv, query, key, value } = head;
  return [
    0,
    head.head * d * query.rank,
    0,
    head.keyValueHead * d * key.rank,
    0,
    head.keyValueHead * dv * value.rank,
  ][t];
}

/** Zeroed, each (r, in) or (out, r) as in PEFT; empty for a frozen projection. */
export function emptyGradients(problem: AttentionLayer): Record<TensorName, Float64Array> {
  const { q_proj, k_proj, v_proj } = problem.projections;
  const sizes = [q_proj, k_proj, v_proj].flatMap((p) => {
    const rank = p.adapter?.rank ?? 0;
    return [rank * p.inFeatures, rank * p.outFeatures];
  });
  return Object.fromEntries(TENSORS.map((name, t) => [name, sharedFloat64(sizes[t])])) as Record<
    TensorName,
    Float64Array
  >;
}
