/**
 * Coordinates in which few features suffice: both clouds of rows centred, with unit variance and
 * without correlation, in directions of falling logit deviation sigma_1 >= sigma_2 >= ...
 */
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { Arithmetic, Real } from './arithmetic.js';

export interface Balance {
  readonly d: number;
  /** x = (q - centreQ) transformQ, z = (k - centreK) transformK; both transforms (d, d), row-major. */
  readonly centreQ: Float64Array;
  readonly centreK: Float64Array;
  readonly transformQ: Float64Array;
  readonly transformK: Float64Array;
  /** beta (q - centreQ).(k - centreK) = sum_a sigma_a x_a z_a, exactly, whatever the rows were. */
  readonly sigma: Float64Array;
}

/**
 * Variance added to every direction, as a share of the mean variance: directions in which the rows do
 * not vary at all must not blow up rounding errors. Any invertible transform is exact.
 */
const RIDGE = 1e-6;

/**
 * Balance from sample rows q (nq, d), k (nk, d), outliers left out.
 *
 * With covariances C_q = A A', C_k = B B' (Cholesky) and M = beta A'B = U diag(sigma) V', take
 * x = q A^-T U and z = k B^-T V: then x and z have unit covariance and
 * sum_a sigma_a x_a z_a = beta q A^-T A' B B^-1 k' = beta q k'.
 *
 * V are the eigenvectors of M'M, several times as quick as an SVD, and U_a sigma_a = M V_a: that the logit
 * comes out does not depend on how orthogonal the U_a of tiny sigma_a are.
 */
export function balance(
  arithmetic: Arithmetic,
  q: Real,
  k: Real,
  d: number,
  beta: number,
): Balance {
  const centreQ = mean(q, d);
  const centreK = mean(k, d);
  const a = factor(arithmetic, q, d, centreQ);
  const b = factor(arithmetic, k, d, centreK);
  const product = a.transpose().mmul(b).mul(beta);
  const v = new EigenvalueDecomposition(product.transpose().mmul(product), {
    assumeSymmetric: true,
  }).eigenvectorMatrix;
  const scaled = product.mmul(v);
  const sizes = Float64Array.from({ length: d }, (_, c) => scaled.getColumnVector(c).norm());
  const order = Array.from(sizes.keys()).sort((i, j) => sizes[j] - sizes[i]);
  const columns = (matrix: Matrix, scale: (c: number) => number) =>
    Float64Array.from({ length: d * d }, (_, i) => {
      const c = order[i % d];
      return scale(c) * matrix.get(Math.floor(i / d), c);
    });
  return {
    d,
    centreQ,
    centreK,
    transformQ: solveTransposed(
      a,
      columns(scaled, (c) => (sizes[c] > 0 ? 1 / sizes[c] : 0)),
    ),
    transformK: solveTransposed(
      b,
      columns(v, () => 1),
    ),
    sigma: Float64Array.from(order, (c) => sizes[c]),
  };
}

/** Mean row of x (n, d). */
export function mean(x: Real, d: number): Float64Array {
  const n = x.length / d;
  const sum = new Float64Array(d);
  for (let i = 0; i < n; i++) {
    for (let a = 0; a < d; a++) sum[a] += x[i * d + a];
  }
  return sum.map((s) => s / Math.max(n, 1));
}

/** Covariance (d, d) of x (n, d) about the centre, in float64. */
export function covariance(
  arithmetic: Arithmetic,
  x: Real,
  d: number,
  centre: Float64Array,
): Float64Array {
  const n = x.length / d;
  const mark = arithmetic.mark();
  const turned = arithmetic.sums(n * d);
  const row = arithmetic.sums(d);
  for (let i = 0; i < n; i++) {
    for (let a = 0; a < d; a++) turned[a * n + i] = x[i * d + a] - centre[a];
  }
  const result = new Float64Array(d * d);
  for (let a = 0; a < d; a++) {
    arithmetic.dots(a + 1, n, turned, turned.subarray(a * n, (a + 1) * n), row);
    for (let b = 0; b <= a; b++) {
      result[a * d + b] = row[b] / n;
      result[b * d + a] = row[b] / n;
    }
  }
  arithmetic.release(mark);
  return result;
}

/** Lower Cholesky factor of the covariance of x (n, d) about the centre. */
function factor(arithmetic: Arithmetic, x: Real, d: number, centre: Float64Array): Matrix {
  const entries = covariance(arithmetic, x, d, centre);
  let trace = 0;
  for (let a = 0; a < d; a++) trace += entries[a * d + a];
  const ridge = trace > 0 ? (RIDGE * trace) / d : 1;
  for (let a = 0; a < d; a++) entries[a * d + a] += ridge;
  return new CholeskyDecomposition(Matrix.from1DArray(d, d, entries)).lowerTriangularMatrix;
}

/** X of L' X = B for lower triangular L; B and X row-major (d, d). */
function solveTransposed(lower: Matrix, b: Float64Array): Float64Array {
  const d = lower.rows;
  const x = b.slice();
  for (let i = d - 1; i >= 0; i--) {
    for (let j = i + 1; j < d; j++) {
      const factor = lower.get(j, i);
      for (let c = 0; c < d; c++) x[i * d + c] -= factor * x[j * d + c];
    }
    const pivot = lower.get(i, i);
    for (let c = 0; c < d; c++) x[i * d + c] /= pivot;
  }
  return x;
}
