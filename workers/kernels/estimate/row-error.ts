/** The error of a matrix whose rows are sampled: every row of the error is its own. */
import type { ErrorEstimate } from './estimate.js';

/** Squared norm of the error of one sampled row. */
export type RowError = number;

/** The squares themselves are rounded. */
const MARGIN = 1 + 2 ** -20;
/** ln(2 / 0.01) */
const LOG_CONFIDENCE = Math.log(200);

/**
 * |E|^2 = sum over rows of |E_i|^2. With rows drawn evenly the mean of |E_i|^2 times their number has it
 * as its mean. The squares scatter widely and are few, so the upper limit is not that of a normal
 * distribution but the empirical Bernstein bound, with the largest of them for their range.
 *
 * @param rows of the matrix. @param square its squared norm.
 */
export function rowErrorEstimate(
  squares: readonly RowError[],
  rows: number,
  square: number,
): ErrorEstimate {
  const n = squares.length;
  const mean = squares.reduce((a, b) => a + b, 0) / n;
  const scatter = squares.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, n - 1);
  const all = n === rows;
  const variance = all ? 0 : scatter / n;
  const range = all ? 0 : (7 * LOG_CONFIDENCE * Math.max(...squares)) / (3 * Math.max(1, n - 1));
  const scale = square > 0 ? rows / square : 0;
  const relative = Math.sqrt(scale * mean);
  return {
    relative,
    upper: MARGIN * Math.sqrt(scale * (mean + Math.sqrt(2 * LOG_CONFIDENCE * variance) + range)),
    // Of the root, to first order.
    standard_error: relative > 0 ? (scale * Math.sqrt(variance)) / (2 * relative) : 0,
    confidence: 0.99,
    rows_sampled: n,
  };
}
