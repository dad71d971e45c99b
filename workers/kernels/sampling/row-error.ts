/** The error of a matrix whose rows are sampled: every row of the error is its own. */
import type { ErrorEstimate } from './estimate.js';

/** Squared norm of the error of one sampled row. */
export type RowError = number;

/** Of Student's t: sampled squares scatter widely, and there are few of them. */
const DEVIATIONS = 3;

/**
 * |E|^2 = sum over rows of |E_i|^2. With rows drawn evenly the mean of |E_i|^2 times their number has it
 * as its mean; its scatter gives the upper limit.
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
  const variance = squares.reduce((a, b) => a + (b - mean) ** 2, 0) / (n * Math.max(1, n - 1));
  const scale = square > 0 ? rows / square : 0;
  const relative = Math.sqrt(scale * mean);
  return {
    relative,
    upper: Math.sqrt(scale * (mean + DEVIATIONS * Math.sqrt(variance))),
    // Of the root, to first order.
    standard_error: relative > 0 ? (scale * Math.sqrt(variance)) / (2 * relative) : 0,
    confidence: 0.99,
    rows_sampled: n,
  };
}
