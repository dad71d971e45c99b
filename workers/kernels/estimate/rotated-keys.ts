/** Keys under rotary positions in float64: there every token is rotated by an angle of its own. */
import type { AttentionLayer, Rotary } from '../../problem.js';
import { type Floats, slice } from '../inner/operands.js';
import { rotate, rotateBack } from '../rotary.js';
import type { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

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
  const columns = passes.dots(X, n, key.rows(passes));
  const K = new Float64Array(n * d);
  for (let c = 0, at = 0; c < d; c++) {
    for (let j = 0; j < n; j++, at++) K[j * d + c] = columns[at]!;
  }
  key.addBias(K);
  if (rotary) rotate(rotary, batchItem, 0, K, d);
  return K;
}

/** A query row's rotated query (d) and its row of dS (n). */
interface QueryOfKeys {
  readonly q: Float64Array;
  readonly dS: Float64Array;
}

/** Gradients of the keys' adapter in one head of a batch item, row by row, under rotary positions. */
export class RotatedKeyRows {
  /** X A^T and B^T of the head, transposed: (r, n) and (r, d). */
  readonly #low: Float64Array;
  readonly #B: Float64Array;

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
    this.#low = passes.dots(X, X.length / inFeatures, Float64Array.from(A.data));
    this.#B = transposed(slice(B.data, shared, d * rank), rank);
  }

  /** Of the part of lora_B that is the head's. */
  get offset(): number {
    return this.shared * this.#B.length;
  }

  /**
   * With z_j = dS_j R_j^T q the row's part of dK before the rotation R_j of token j:
   *
   *     d lora_A = s beta (Z B)^T X        d lora_B = s beta Z^T (X A^T)
   *
   * @param minus taken off: what comes out is a difference, at the price of one.
   * @returns lora_A (r, in), and the head's part of lora_B (d, r).
   */
  of(plus: QueryOfKeys, minus?: QueryOfKeys): Readonly<Record<'A' | 'B', Float64Array>> {
    const { problem, passes, X } = this;
    const { scaling } = problem.projections.k_proj.adapter!;
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
    return {
      A: passes.combine(X, n, passes.dots(Z, n, this.#B)),
      B: transposed(passes.combine(Z, n, this.#low), d),
    };
  }
}

/** X (n, columns) -> (columns, n) */
function transposed(X: Floats, columns: number): Float64Array {
  const n = X.length / columns;
  const out = new Float64Array(X.length);
  for (let i = 0, at = 0; i < n; i++) {
    for (let c = 0; c < columns; c++, at++) out[c * n + i] = X[at]!;
  }
  return out;
}
