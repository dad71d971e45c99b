/** The decompositions of matrices that plans are made of: the one place that calls the library. */
import { CholeskyDecomposition, EigenvalueDecomposition, Matrix } from 'ml-matrix';
import { NumericError } from '../../../job.js';

/** Lower Cholesky factor of a positive definite matrix (d, d), row-major. @throws {NumericError} */
export function choleskyFactor(matrix: Float64Array, d: number): Float64Array {
  return decompose('The covariance of queries or keys', matrix, () => {
    const decomposition = new CholeskyDecomposition(Matrix.from1DArray(d, d, matrix));
    return [decomposition.lowerTriangularMatrix.to1DArray()];
  })[0]!;
}

export interface Eigensystem {
  readonly values: Float64Array;
  /** (d, d), row-major: column c belongs to value c. */
  readonly vectors: Float64Array;
}

/** Of a symmetric matrix (d, d), row-major. @throws {NumericError} */
export function eigensystem(matrix: Float64Array, d: number): Eigensystem {
  const [values, vectors] = decompose('The product of queries and keys', matrix, () => {
    const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(
      Matrix.from1DArray(d, d, matrix),
      { assumeSymmetric: true },
    );
    return [realEigenvalues, eigenvectorMatrix.to1DArray()];
  });
  return { values: values!, vectors: vectors! };
}

function decompose(
  what: string,
  matrix: Float64Array,
  by: () => ArrayLike<number>[],
): Float64Array[] {
  const failure = new NumericError(`${what} cannot be decomposed: its numbers are too large.`);
  // The library may not come to an end with NaN.
  if (!matrix.every(Number.isFinite)) throw failure;
  let parts: Float64Array[];
  try {
    parts = by().map((part) => Float64Array.from(part));
  } catch {
    throw failure;
  }
  if (!parts.every((part) => part.every(Number.isFinite))) throw failure;
  return parts;
}
