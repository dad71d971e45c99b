/** The decomposition that plans take from the library: the one place that calls it. */
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { NumericError } from '../../../job.js';

const WHAT = 'The covariance of queries or keys';

/** Lower Cholesky factor of a positive definite matrix (d, d), row-major. @throws {NumericError} */
export function choleskyFactor(matrix: Float64Array, d: number): Float64Array {
  // The library may not come to an end with NaN.
  requireFinite(WHAT, matrix);
  let factor: Float64Array;
  try {
    const decomposition = new CholeskyDecomposition(Matrix.from1DArray(d, d, matrix));
    factor = Float64Array.from(decomposition.lowerTriangularMatrix.to1DArray());
  } catch {
    throw tooLarge(WHAT);
  }
  requireFinite(WHAT, factor);
  return factor;
}

const tooLarge = (what: string) =>
  new NumericError(`${what} cannot be decomposed: its numbers are too large.`);

/** @throws {NumericError} */
export function requireFinite(what: string, ...arrays: readonly Float64Array[]): void {
  if (!arrays.every((numbers) => numbers.every(Number.isFinite))) throw tooLarge(what);
}
