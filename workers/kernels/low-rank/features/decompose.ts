/** The decomposition that plans take from the library: the one place that calls it. */
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { type Checkpoint, NumericError } from '../../../job.js';

const WHAT = 'The covariance of queries or keys';

/** Columns that the library is given at a time, since nothing stops it: less than a millisecond. */
const BLOCK = 64;

/**
 * Lower Cholesky factor of a positive definite matrix (d, d), row-major, block of columns by block of columns.
 *
 * @param checkpoint passed once for each row of each block, and once before its square.
 * @throws {NumericError}
 */
export function choleskyFactor(
  matrix: Float64Array,
  d: number,
  checkpoint: Checkpoint,
): Float64Array {
  requireFinite(WHAT, matrix);
  const factor = new Float64Array(d * d);
  for (let from = 0; from < d; from += BLOCK) {
    const to = Math.min(from + BLOCK, d);
    /** What the columns before `until` leave of row i and column j. */
    const rest = (i: number, j: number, until: number) => {
      let sum = matrix[i * d + j];
      for (let k = 0; k < until; k++) sum -= factor[i * d + k] * factor[j * d + k];
      return sum;
    };
    checkpoint();
    const square = squareFactor(to - from, (i, j) => rest(from + i, from + j, from));
    square.forEach((row, i) => {
      factor.set(row, (from + i) * d + from);
    });
    for (let i = to; i < d; i++) {
      checkpoint();
      for (let j = from; j < to; j++) factor[i * d + j] = rest(i, j, j) / factor[j * d + j];
    }
  }
  requireFinite(WHAT, factor);
  return factor;
}

/** Rows of the factor of n columns. @throws {NumericError} */
function squareFactor(n: number, entry: (i: number, j: number) => number): number[][] {
  const matrix = Matrix.zeros(n, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const x = entry(i, j);
      // The library may not come to an end with NaN.
      if (!Number.isFinite(x)) throw tooLarge(WHAT);
      matrix.set(i, j, x).set(j, i, x);
    }
  }
  return new CholeskyDecomposition(matrix).lowerTriangularMatrix.to2DArray();
}

const tooLarge = (what: string) =>
  new NumericError(`${what} cannot be decomposed: its numbers are too large.`);

/** @throws {NumericError} */
export function requireFinite(what: string, ...arrays: readonly Float64Array[]): void {
  if (!arrays.every((numbers) => numbers.every(Number.isFinite))) throw tooLarge(what);
}
