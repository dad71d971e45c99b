/** Keys under rotary positions in float64: there every token is rotated by an angle of its own. */
import type { AttentionLayer, Rotary } from '../../problem.js';
import { rotate, rotateBack } from '../rotary.js';
import type { Rows } from './estimate.js';
import type { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

type Floats = Float32Array | Float64Array;

/** K (n, d) of one head, rotated, from the inputs X (n, in). */
export function rotatedKeys(
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
  if (rotary) rotate(rotary, batchItem, 0, K, d);
  return K;
}

/** A query row's rotated query (d) and its row of dS (n). */
export interface QueryOfKeys {
  readonly q: Float64Array;
  readonly dS: Float64Array;
}

/** Gradients of the keys' adapter in one head of a batch item, row by row, under rotary positions. */
export class RotatedKeyRows {
  readonly #low: readonly Float64Array[];
  readonly #B: readonly Float64Array[];

  /** @param X (n, in), inputs of the keys. */
  constructor(
    readonly problem: AttentionLayer & { readonly rotary: Rotary },
    readonly batchItem: number,
    readonly shared: number,
    readonly X: Floats,
    readonly passes: InputPasses,
  ) {
    const { adapter, inFeatures } = problem.projections.k_proj;
    const { A, B, rank } = adapter!;
    const d = problem.dims.headDim;
    const each = (of: (r: number) => Float64Array) => Array.from({ length: rank }, (_, r) => of(r));
    this.#low = passes.dots(
      X,
      X.length / inFeatures,
      each((r) => Float64Array.from(A.data.subarray(r * inFeatures, (r + 1) * inFeatures))),
    );
    this.#B = each((r) =>
      Float64Array.from({ length: d }, (_, c) => B.data[(shared * d + c) * rank + r]!),
    );
  }

  /**
   * With z_j = dS_j R_j^T q the row's part of dK before the rotation R_j of token j:
   *
   *     d lora_A = s beta (Z B)^T X        d lora_B = s beta Z^T (X A^T)
   *
   * @param minus taken off: what comes out is a difference, at the price of one.
   */
  of(plus: QueryOfKeys, minus?: QueryOfKeys): { readonly A: Rows; readonly B: Rows } {
    const { problem, passes, X } = this;
    const { rank, scaling } = problem.projections.k_proj.adapter!;
    const [n, d] = [plus.dS.length, plus.q.length];
    const scale = scaling * problem.scaling;
    const Z = new Float64Array(n * d);
    for (let j = 0, k = 0; j < n; j++) {
      for (let c = 0; c < d; c++, k++) {
        Z[k] = plus.dS[j]! * plus.q[c]!;
        if (minus) Z[k]! -= minus.dS[j]! * minus.q[c]!;
        Z[k]! *= scale;
      }
    }
    passes.checkpoint();
    rotateBack(problem.rotary, this.batchItem, 0, Z, d);
    const byRank = passes.combine(Z, n, this.#low);
    return {
      A: { rows: passes.combine(X, n, passes.dots(Z, n, this.#B)), offset: 0 },
      B: {
        rows: Array.from({ length: d }, (_, c) =>
          Float64Array.from({ length: rank }, (_, r) => byRank[r]![c]!),
        ),
        offset: this.shared * d * rank,
      },
    };
  }
}
