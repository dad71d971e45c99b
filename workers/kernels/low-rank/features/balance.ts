/**
 * Coordinates in which few features suffice: both clouds of rows centred, with unit variance and
 * without correlation, in directions of falling logit deviation sigma_1 >= sigma_2 >= ...
 */

import type { TensorData } from '../../../tensor/tensor.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { choleskyFactor } from './decompose.js';
import { eigensystem, eigenvalues } from './eigensystem.js';

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
/** And no less than this: transforms of tiny rows stay in float32. */
const LEAST_VARIANCE = 1e-60;

/**
 * Balance from sample rows q (nq, d), k (nk, d), outliers left out.
 *
 * @throws {NumericError} when the rows are too large for it.
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
  q: TensorData,
  k: TensorData,
  d: number,
  beta: number,
): Balance {
  const centreQ = mean(q, d);
  const centreK = mean(k, d);
  const mark = arithmetic.mark();
  const a = factor(arithmetic, q, d, centreQ);
  const b = factor(arithmetic, k, d, centreK);
  // Products of rows are what `dots` makes: M'M and M V.
  const rootProduct = rootProductOf(arithmetic, a, b, d, beta);
  const gram = product(arithmetic, rootProduct, rootProduct, d);
  const v = eigensystem(gram, d, arithmetic.checkpoint).vectors;
  const scaled = product(arithmetic, transposed(rootProduct, d), transposed(v, d), d);
  arithmetic.release(mark);
  const sizes = new Float64Array(d);
  for (let i = 0; i < d * d; i++) sizes[i % d] += scaled[i] * scaled[i];
  for (let c = 0; c < d; c++) sizes[c] = Math.sqrt(sizes[c]);
  const order = Array.from(sizes.keys()).sort((i, j) => sizes[j] - sizes[i]);
  const columns = (matrix: ArrayLike<number>, scale: (c: number) => number) => {
    const out = new Float64Array(d * d);
    for (let i = 0; i < d * d; i++) {
      const c = order[i % d];
      out[i] = scale(c) * matrix[i - (i % d) + c];
    }
    return out;
  };
  const inverse = (c: number) => (sizes[c] > 0 ? 1 / sizes[c] : 0);
  return {
    d,
    centreQ,
    centreK,
    transformQ: solveTransposed(arithmetic, a, columns(scaled, inverse), d),
    transformK: solveTransposed(
      arithmetic,
      b,
      columns(v, () => 1),
      d,
    ),
    sigma: Float64Array.from(order, (c) => sizes[c]),
  };
}

/** sigma of the balance alone, up to rounding of its square. @throws {NumericError} */
export function deviations(
  arithmetic: Arithmetic,
  q: TensorData,
  k: TensorData,
  d: number,
  beta: number,
): Float64Array {
  const [a, b] = [q, k].map((x) => factor(arithmetic, x, d, mean(x, d))) as [
    Float64Array,
    Float64Array,
  ];
  const rootProduct = rootProductOf(arithmetic, a, b, d, beta);
  const gram = product(arithmetic, rootProduct, rootProduct, d);
  const squares = eigenvalues(gram, d, arithmetic.checkpoint);
  return squares.map((x) => Math.sqrt(Math.max(0, x))).sort((x, y) => y - x);
}

/** M' = beta B'A (d, d) of the factors of both covariances. */
function rootProductOf(
  arithmetic: Arithmetic,
  a: Float64Array,
  b: Float64Array,
  d: number,
  beta: number,
): Float64Array {
  return product(arithmetic, transposed(b, d), transposed(a, d), d).map((x) => beta * x);
}

/** x y' (d, d) for x, y (d, d), in float64. */
function product(
  arithmetic: Arithmetic,
  x: Float64Array,
  y: Float64Array,
  d: number,
): Float64Array {
  const mark = arithmetic.mark();
  const [left, right, out] = [
    arithmetic.sums(d * d),
    arithmetic.sums(d * d),
    arithmetic.sums(d * d),
  ];
  left.set(x);
  right.set(y);
  arithmetic.dots(d, d, d, right, left, out);
  arithmetic.release(mark);
  return out.slice();
}

function transposed(x: Float64Array, d: number): Float64Array {
  const out = new Float64Array(d * d);
  for (let i = 0; i < d; i++) for (let j = 0; j < d; j++) out[j * d + i] = x[i * d + j];
  return out;
}

/** Mean row of x (n, d). */
export function mean(x: TensorData, d: number): Float64Array {
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
  x: TensorData,
  d: number,
  centre: Float64Array,
): Float64Array {
  const n = x.length / d;
  const mark = arithmetic.mark();
  const centred = arithmetic.sums(n * d);
  const result = arithmetic.sums(d * d);
  for (let i = 0; i < n; i++) {
    for (let a = 0; a < d; a++) centred[a * n + i] = x[i * d + a] - centre[a];
  }
  arithmetic.dots(d, n, d, centred, centred, result);
  arithmetic.release(mark);
  const covariances = result.slice();
  for (let i = 0; i < d * d; i++) covariances[i]! /= n;
  return covariances;
}

/** Lower Cholesky factor (d, d) of the covariance of x (n, d) about the centre. */
function factor(
  arithmetic: Arithmetic,
  x: TensorData,
  d: number,
  centre: Float64Array,
): Float64Array {
  const entries = covariance(arithmetic, x, d, centre);
  let trace = 0;
  for (let a = 0; a < d; a++) trace += entries[a * d + a];
  const ridge = trace > 0 ? Math.max(LEAST_VARIANCE, (RIDGE * trace) / d) : 1;
  for (let a = 0; a < d; a++) entries[a * d + a] += ridge;
  return choleskyFactor(entries, d, arithmetic.checkpoint);
}

/** X of L' X = B for lower triangular L; all row-major (d, d). */
function solveTransposed(
  { checkpoint }: Arithmetic,
  lower: Float64Array,
  b: Float64Array,
  d: number,
): Float64Array {
  const x = b.slice();
  for (let i = d - 1; i >= 0; i--) {
    checkpoint();
    for (let j = i + 1; j < d; j++) {
      const factor = lower[j * d + i];
      for (let c = 0; c < d; c++) x[i * d + c] -= factor * x[j * d + c];
    }
    const pivot = lower[i * d + i];
    for (let c = 0; c < d; c++) x[i * d + c] /= pivot;
  }
  return x;
}
