/** The error of a matrix whose rows are sampled: every row of the error is its own. */
import type { ErrorEstimate } from './estimate.js';

/** Squared norm of the error of one sampled row. */
export type RowError = number;

/** The squares themselves are rounded. */
const MARGIN = 1 + 2 ** -20;
/** ln(2 / 0.01) */
const LOG_CONFIDENCE = Math.log(200);

/** What independent values that are not negative say about their expectation. */
interface Mean {
  readonly mean: number;
  readonly variance: number;
  /** 99 % limit of the expectation: the empirical Bernstein bound, with the largest value for the range. */
  readonly limit: number;
}

function meanOf(values: readonly number[]): Mean {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  const scatter = values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, n - 1);
  const variance = scatter / n;
  const range = (7 * LOG_CONFIDENCE * Math.max(...values)) / (3 * Math.max(1, n - 1));
  return { mean, variance, limit: mean + Math.sqrt(2 * LOG_CONFIDENCE * variance) + range };
}

/**
 * |E|^2 = sum over rows of |E_i|^2. With rows drawn evenly the mean of |E_i|^2 times their number has it
 * as its mean. The squares scatter widely and are few, so the upper limit is not that of a normal
 * distribution.
 *
 * @param rows of the matrix. @param square its squared norm.
 */
export function rowErrorEstimate(
  squares: readonly RowError[],
  rows: number,
  square: number,
): ErrorEstimate {
  const n = squares.length;
  const found = meanOf(squares);
  const { mean, variance, limit } =
    n === rows ? { ...found, variance: 0, limit: found.mean } : found;
  const scale = square > 0 ? rows / square : 0;
  const relative = Math.sqrt(scale * mean);
  return {
    relative,
    upper: MARGIN * Math.sqrt(scale * limit),
    // Of the root, to first order.
    standard_error: relative > 0 ? (scale * Math.sqrt(variance)) / (2 * relative) : 0,
    confidence: 0.99,
    rows_sampled: n,
  };
}

/**
 * The error of a matrix to which every row of the softmax adds a matrix of its own size, such as dK or dX: |E| <= sum
 * over rows of |Delta_i|, and |Delta_i| / p_i of a drawn row has that sum as its mean. Only sizes of matrices are
 * needed, none is formed. Where the errors of rows are unrelated the sum is above the norm by the root of
 * their number.
 *
 * @param sizes |Delta_i| / p_i of independent draws. @param rows that were drawn.
 * @param norm of the matrix. @param rounding relative error that rows by themselves cannot show.
 */
export function sumErrorEstimate(
  sizes: readonly number[],
  {
    rows,
    norm,
    rounding,
  }: { readonly rows: number; readonly norm: number; readonly rounding: number },
): ErrorEstimate {
  const { mean, variance, limit } = meanOf(sizes);
  // A matrix that came out as 0 is off by all of itself, unless nothing was to be added.
  const over = (x: number) => (norm > 0 ? x / norm : x > 0 ? 1 : 0);
  return {
    relative: over(mean),
    upper: over(limit) + (norm > 0 ? rounding : 0),
    standard_error: norm > 0 ? Math.sqrt(variance) / norm : 0,
    confidence: 0.99,
    rows_sampled: rows,
  };
}
