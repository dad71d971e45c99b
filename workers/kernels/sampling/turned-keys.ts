/** Keys under rotary positions in float64: there every token is turned by an angle of its own. */
import type { AttentionLayer, Projection, Rotary } from '../../../src/lora/problem.js';
import { rotate, rotateBack } from '../rotary.js';
import type { Rows } from './estimate.js';
import type { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

type Floats = Float32Array | Float64Array;

/** K (n, d) of one head, turned, from the inputs X (n, in). */
export function turnedKeys(
  { rotary, dims }: AttentionLayer,
  key: HeadWeights,
  batchItem: number,
  X: Floats,
  n: number,
  passes: InputPasses,
): Float64Array {
  const d = dims.headDim;
  const weights = Array.from({ length: d }, (_, c) => key.row(c));
  const columns = passes.dots(X, n, weights);
  const bias = key.addBias(new Float64Array(d));
  const K = new Float64Array(n * d);
  for (let c = 0; c < d; c++) {
    for (let j = 0; j < n; j++) K[j * d + c] = columns[c]![j]! + bias[c]!;
  }
  if (rotary) rotate(rotary, batchItem, 0, K);
  return K;
}

/**
 * What one query row gives to the adapter of the keys. With z_j = dS_j R_j^T q the row's part of dK before
 * the rotation R_j of token j:
 *
 *     d lora_A = s beta (Z B)^T X        d lora_B = s beta Z^T (X A^T)
 *
 * @param q turned query of the row. @param dS (n) its row of dS.
 */
export function turnedKeyRows(
  rotary: Rotary,
  projection: Projection,
  shared: number,
  batchItem: number,
  row: { readonly q: Float64Array; readonly dS: Float64Array; readonly beta: number },
  X: Floats,
  passes: InputPasses,
): { readonly A: Rows; readonly B: Rows } {
  const { A, B, rank, scaling } = projection.adapter!;
  const { q, dS, beta } = row;
  const [n, d, columns] = [dS.length, q.length, projection.inFeatures];
  const scale = scaling * beta;
  const Z = new Float64Array(n * d);
  for (let j = 0; j < n; j++) {
    for (let c = 0; c < d; c++) Z[j * d + c] = scale * dS[j]! * q[c]!;
  }
  rotateBack(rotary, batchItem, 0, Z);
  passes.checkpoint();
  const each = (of: (r: number) => Float64Array) => Array.from({ length: rank }, (_, r) => of(r));
  const columnsOfB = each((r) =>
    Float64Array.from({ length: d }, (_, c) => B.data[(shared * d + c) * rank + r]!),
  );
  const ZB = passes.dots(Z, n, columnsOfB);
  const rowsOfA = each((r) => Float64Array.from(A.data.subarray(r * columns, (r + 1) * columns)));
  const low = passes.dots(X, n, rowsOfA);
  const byRank = passes.combine(Z, n, low);
  return {
    A: { rows: passes.combine(X, n, ZB), offset: 0 },
    B: {
      rows: Array.from({ length: d }, (_, c) =>
        Float64Array.from({ length: rank }, (_, r) => byRank[r]![c]!),
      ),
      offset: shared * d * rank,
    },
  };
}
