import { keysOf } from '../../mask.js';
import type { AttentionLayer } from '../../problem.js';

/** A query row of a head of a batch item. */
export interface RowOfHead {
  readonly batchItem: number;
  readonly head: number;
  /** Number of its key/value head. */
  readonly shared: number;
  readonly row: number;
}

/** Inputs X^K, X^V (keys, in) of a batch item, without the padding at their end; at least those of one key. */
export function keyInputs(layer: AttentionLayer, item: number) {
  const { inputs, dims, projections } = layer;
  const n = Math.max(1, keysOf(layer, item).last);
  const of = (x: Float32Array | Float64Array, columns: number) =>
    x.subarray(item * dims.keyLength * columns, (item * dims.keyLength + n) * columns);
  return {
    keys: n,
    XK: of(inputs.key.data, projections.k_proj.inFeatures),
    XV: of(inputs.value.data, projections.v_proj.inFeatures),
  };
}
