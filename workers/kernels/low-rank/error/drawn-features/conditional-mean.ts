/**
 * What a row of P makes of the keys, as a linear function of the query: the mean of all keys, and slopes.
 *
 * With normal keys of unit covariance the keys under exp(sum_a sigma_a x_a z_a) are normal again, their mean at
 * sigma_a x_a, and what depends on them linearly follows: (P X)_i is nearly centre + (x_i + x_0) B with
 * B = diag(sigma) Cov(z, X) and x_0 the coordinates of the centre of the queries. No result rests on how
 * nearly: it only makes differences small that are then estimated.
 */

import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import type { HeadRun } from '../../chain/run.js';
import type { Balance } from '../../features/balance.js';
import { minus } from '../../head/affine.js';
import type { Head } from '../../head/head.js';
import type { ConditionalMean } from '../../head/plan.js';
import type { QueryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';

const NONE = new Float64Array(0);
export const NO_CONDITIONAL_MEAN: ConditionalMean = {
  key: NONE,
  inputsK: NONE,
  inputsV: NONE,
  u: NONE,
  va: NONE,
};

/** The conditional mean from sample keys k (n, d) and their rows of X^K and X^V. */
export function sampleConditionalMean(
  arithmetic: Arithmetic,
  { d, query, key, value }: Head,
  balance: Balance,
  k: Real,
  xk: Real,
  xv: Real,
): ConditionalMean {
  const of = (x: Real) => slopes(arithmetic, balance, k, x);
  const ofKey = query.rank > 0 ? of(k) : NONE;
  const inputsK = key.rank > 0 ? of(xk) : NONE;
  const inputsV = value.rank > 0 ? of(xv) : NONE;
  const p = query.rank + key.rank;
  const u = new Float64Array(d * p);
  /** Columns [from, from + rank) of c (d, stride) = a (d, inner) b (inner, rank). */
  const multiply = (
    a: Float64Array,
    { b, rank }: { readonly b: Float32Array; readonly rank: number },
    c: Float64Array,
    stride: number,
    from: number,
  ) => {
    const inner = a.length / d;
    for (let row = 0; row < d; row++) {
      arithmetic.checkpoint();
      const of = a.subarray(row * inner, (row + 1) * inner);
      addProduct(of, b, rank, c.subarray(row * stride + from));
    }
  };
  multiply(ofKey, { b: query.up, rank: query.rank }, u, p, 0);
  multiply(inputsK, { b: key.down, rank: key.rank }, u, p, query.rank);
  const va = new Float64Array(d * value.rank);
  multiply(inputsV, { b: value.down, rank: value.rank }, va, value.rank, 0);
  return { key: ofKey, inputsK, inputsV, u, va };
}

/** diag(sigma) Cov(z, X) (d, width) of rows x (n, width) that belong to keys k (n, d). */
function slopes(
  arithmetic: Arithmetic,
  { d, centreK, transformK, sigma }: Balance,
  k: Real,
  x: Real,
): Float64Array {
  const n = k.length / d;
  const width = x.length / n;
  const mark = arithmetic.mark();
  const centred = (rows: Real, columns: number, centre: ArrayLike<number>) => {
    const copy = arithmetic.array(rows.length);
    copy.set(rows);
    arithmetic.addRow(n, columns, minus(arithmetic, centre), copy);
    return copy;
  };
  const mean = arithmetic.array(width);
  arithmetic.gemm(1, width, n, arithmetic.array(n).fill(1 / n), x, mean);
  const transform = arithmetic.array(d * d);
  transform.set(transformK);
  const z = arithmetic.array(n * d);
  arithmetic.gemm(n, d, d, centred(k, d, centreK), transform, z);
  const product = arithmetic.array(d * width);
  arithmetic.transposedGemm(d, width, n, z, centred(x, width, mean), product);
  const result = new Float64Array(product.length);
  for (let a = 0; a < d; a++) {
    arithmetic.checkpoint();
    for (let i = a * width; i < (a + 1) * width; i++) result[i] = (sigma[a] * product[i]) / n;
  }
  arithmetic.release(mark);
  return result;
}

/** c (rank) += a (inner) b (inner, rank). */
function addProduct(a: Float64Array, b: Float32Array, rank: number, c: Float64Array): void {
  for (let x = 0; x < a.length; x++) {
    for (let y = 0; y < rank; y++) c[y] += a[x] * b[x * rank + y];
  }
}

/** Mean rows of X^K, X^V and X^V A_V' over all keys. */
export function inputMeans({ head, inputSums: slots }: Pick<HeadRun, 'head' | 'inputSums'>) {
  const { key, value, keyLength } = head;
  const [inK, inV] = [key.effective.inputs, value.effective.inputs];
  const mean = new Float64Array(inK + inV);
  for (const slot of slots) {
    for (let i = 0; i < mean.length; i++) mean[i] += slot[i] / keyLength;
  }
  const [xk, xv] = [mean.subarray(0, inK), mean.subarray(inK)];
  const va = new Float64Array(value.rank);
  addProduct(xv, value.down, value.rank, va);
  return { xk, xv, va };
}

/** Rows of centres of a block of queries. */
interface ConditionalMeanRows {
  /** x_i + x_0 (capacity, d). */
  readonly x: Real;
  /** Times the matrices of U (capacity, r_q + r_k) and of X^V A_V' (capacity, r_v). */
  readonly u: Real;
  readonly va: Real;
  load(rows: Pick<QueryRows, 'x' | 'count'>): void;
}

export function conditionalMeanRows(
  { arithmetic, plan, head }: Workspace,
  capacity: number,
): ConditionalMeanRows {
  const { d } = head;
  const { balance, conditionalMean } = plan;
  const start = arithmetic.array(d);
  for (let a = 0; a < d; a++) {
    for (let c = 0; c < d; c++) start[c] += balance.centreQ[a] * balance.transformQ[a * d + c];
  }
  const x = arithmetic.array(capacity * d);
  const product = (matrix: Float64Array) => {
    const width = matrix.length / d;
    const packed = width > 0 ? arithmetic.pack(d, width, matrix) : null;
    return { packed, rows: arithmetic.array(capacity * width) };
  };
  const [u, va] = [product(conditionalMean.u), product(conditionalMean.va)];
  return {
    x,
    u: u.rows,
    va: va.rows,
    load(rows): void {
      arithmetic.combine(rows.count * d, 1, rows.x, 0, x);
      arithmetic.addRow(rows.count, d, start, x);
      for (const { packed, rows: to } of [u, va]) {
        if (packed) arithmetic.product(rows.count, x, packed, to);
      }
    },
  };
}
