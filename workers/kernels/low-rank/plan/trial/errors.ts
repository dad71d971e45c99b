/** How far the features are from the exact block of a trial. */
import type { Arithmetic } from '../../arithmetic/arithmetic.js';
import { type ExactBlock, inScratch, type LowRankBlock } from './block.js';
import type { TrialSample } from './sample.js';

/** Error of products with sampled rows of P. */
export interface TrialError {
  /** Relative; infinity when a row sum lost its sign. */
  readonly error: number;
  /** Rows and columns that would make as much error if all were alike: few when few make most of it. */
  readonly rows: number;
  readonly columns: number;
  /** Share of the square that the row sums of the chain make, and not the features for themselves. */
  readonly normalisation: number;
  /** What may be rounded away, relative. */
  readonly rounding: number;
}

/** The error of products that are not wanted. */
const NO_ERROR: TrialError = { error: 0, rows: 0, columns: 0, normalisation: 0, rounding: 0 };

interface TrialErrors {
  readonly score: TrialError;
  readonly value: TrialError;
}

/**
 * Errors of dS K, which weigh with |X_i|^2 in a gradient, and of P V; both blocks normalised row by row.
 * In float64: errors may be as small as the rounding of the features.
 */
export function compare(
  arithmetic: Arithmetic,
  sample: TrialSample,
  block: ExactBlock,
  approximate: LowRankBlock,
  wantsScores: boolean,
): TrialErrors {
  const mark = arithmetic.mark();
  const { score, value } = errorSums(arithmetic, sample, block, approximate);
  arithmetic.release(mark);
  return { score: wantsScores ? score : NO_ERROR, value };
}

function errorSums(
  arithmetic: Arithmetic,
  { queryWeight, querySquares, keyWeight, keys }: TrialSample,
  { e, t, rows, keySquares: u, valueSquares: v, weight, means }: ExactBlock,
  { product, stride, scale, outlierQuery, outlierKey }: LowRankBlock,
): TrialErrors {
  const count = keys.count;
  const score = new ErrorSums(arithmetic, queryWeight, keyWeight);
  const value = new ErrorSums(arithmetic, queryWeight, keyWeight);
  const exactly = inScratch(arithmetic, Float64Array.from(outlierKey, Number));
  const weighted = (x: Float64Array) => x.reduce((sum, a, j) => sum + keyWeight[j] * a, 0);
  const all = keyWeight.reduce((sum, w) => sum + w, 0);
  const [meanKey, meanValue] = [u, v].map((x) => weighted(x) / all || 1);
  /** Keys that one of the sample stands for. */
  const keysForOne = weighted(keyWeight) / all;
  const row = arithmetic.sums(count);
  const out = arithmetic.sums(2);
  for (const [i, exact] of rows.entries()) {
    if (exact === null) continue;
    let [scoreError, valueError, sumSquare] = [0, 0, 0];
    // An outlier row is exact in the chain, too.
    if (!outlierQuery[i]) {
      const [ei, ti] = [e.subarray(i * count), t.subarray(i * count)];
      const low = product.subarray(i * stride);
      arithmetic.joinedRow(count, scale[i], low, exactly, ei, weight, ti, row, out);
      const total = out[0];
      const mean = out[1] / total;
      if (!(total > 0)) return { score: LOST, value: LOST };
      const [inverse, shift] = [exact.inverse, mean - exact.mean];
      const [forScore, forValue] = [queryWeight[i] * querySquares[i], queryWeight[i]];
      const sums = [weight, u, v, score.columns, value.columns, out] as const;
      arithmetic.rowErrors(
        ...[count, inverse, 1 / total, mean, shift, forScore, forValue, ei, ti, row, ...sums],
      );
      scoreError = out[0];
      valueError = out[1];
      // Error of the row sum. Over a sample of keys it has more noise than over all.
      const noise = valueError / meanValue;
      sumSquare = noise + Math.max(0, (1 / (exact.inverse * total) - 1) ** 2 - keysForOne * noise);
    }
    const square = querySquares[i];
    const normalised = square * (scoreError / meanKey) * means.key[i];
    score.addRow(i, square * scoreError, {
      ...{ whole: square * exact.scoreWhole, rounding: square * exact.scoreRounding, normalised },
    });
    value.addRow(i, valueError, {
      ...{ whole: exact.valueWhole, rounding: exact.valueRounding },
      normalised: sumSquare * means.value[i],
    });
  }
  return { score: score.result(), value: value.result() };
}

const LOST: TrialError = {
  ...{ error: Number.POSITIVE_INFINITY, rows: 0, columns: 0, normalisation: 1, rounding: 0 },
};

/** Sums of squares over a sample of rows and columns, each of which stands for several. */
class ErrorSums {
  readonly columns: Float64Array;
  readonly #rows: Float64Array;
  #whole = 0;
  #normalised = 0;
  #rounding = 0;

  constructor(
    arithmetic: Arithmetic,
    readonly rowWeight: Float64Array,
    readonly columnWeight: Float64Array,
  ) {
    this.#rows = new Float64Array(rowWeight.length);
    this.columns = arithmetic.sums(columnWeight.length);
  }

  addRow(i: number, error: number, of: Record<'whole' | 'normalised' | 'rounding', number>): void {
    this.#rows[i] = error;
    this.#whole += this.rowWeight[i] * of.whole;
    this.#normalised += this.rowWeight[i] * of.normalised;
    this.#rounding += this.rowWeight[i] * of.rounding;
  }

  result(): TrialError {
    const rows = alike(this.#rows, this.rowWeight);
    const columns = alike(this.columns, this.columnWeight);
    const error = Math.sqrt(rows.total / (this.#whole || 1));
    if (!Number.isFinite(error)) return LOST;
    const normalisation = rows.total > 0 ? Math.min(1, this.#normalised / rows.total) : 0;
    const rounding = Math.sqrt(this.#rounding / (this.#whole || 1));
    return { error, rows: rows.count, columns: columns.count, normalisation, rounding };
  }
}

/** Sum of weighted squares, and (sum of roots)^2 / sum of squares: how many make it up. */
function alike(squares: Float64Array, weight: Float64Array): { total: number; count: number } {
  let total = 0;
  let roots = 0;
  for (let i = 0; i < squares.length; i++) {
    total += weight[i] * squares[i];
    roots += weight[i] * Math.sqrt(squares[i]);
  }
  return { total, count: total > 0 ? (roots * roots) / total : 0 };
}
