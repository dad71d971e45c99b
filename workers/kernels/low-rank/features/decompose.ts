/** The Cholesky factor of a covariance. */
import { type Checkpoint, NumericError } from '../../../job.js';

const WHAT = 'The covariance of queries or keys';

/**
 * Lower Cholesky factor of a positive definite matrix (d, d), row-major.
 *
 * @param checkpoint passed once for each row.
 * @throws {NumericError}
 */
export function choleskyFactor(
  matrix: Float64Array,
  d: number,
  checkpoint: Checkpoint,
): Float64Array {
  requireFinite(WHAT, matrix);
  const factor = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    checkpoint();
    const row = i * d;
    let square = 0;
    for (let j = 0; j < i; j++) {
      let sum = 0;
      for (let k = 0; k < j; k++) sum += factor[row + k]! * factor[j * d + k]!;
      const entry = (matrix[row + j]! - sum) / factor[j * d + j]!;
      factor[row + j] = entry;
      square += entry * entry;
    }
    factor[row + i] = Math.sqrt(Math.max(matrix[row + i]! - square, 0));
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
