import type { AttentionLayer } from '../../problem.js';

/** A query row of a head of a batch item. */
export interface RowOfHead {
  readonly batchItem: number;
  readonly head: number;
  readonly row: number;
}

/** Inputs X^K, X^V (n, in) of a batch item, without its padding. */
export function keyInputs({ inputs, dims, projections }: AttentionLayer, item: number, n: number) {
  const of = (x: Float32Array | Float64Array, columns: number) =>
    x.subarray(item * dims.keyLength * columns, (item * dims.keyLength + n) * columns);
  return {
    XK: of(inputs.key.data, projections.k_proj.inFeatures),
    XV: of(inputs.value.data, projections.v_proj.inFeatures),
  };
}
