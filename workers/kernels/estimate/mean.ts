/** The mean of independent unbiased estimates of a matrix: how far is it from the matrix? */

/** What n independent draws D_k with the mean E say about E. */
export interface MeanError {
  /** |mean| */
  readonly norm: number;
  /** Root of an estimate of the mean square of |mean - E|. */
  readonly standardError: number;
  /** 99 % limit of |mean - E| as far as the draws show it: standard errors by the t distribution. */
  readonly deviation: number;
  /** What rows may add that no draw has seen. */
  readonly unseen: number;
}

/** Two-sided 99 % of a normal distribution. */
const DEVIATIONS = 2.58;

/** The same of a t distribution, by the expansion of Cornish and Fisher: 3 % low for 3 degrees of freedom. */
export function deviationsOf(freedom: number): number {
  const z = DEVIATIONS;
  const [first, second] = [(z ** 3 + z) / 4, (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96];
  const third = (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384;
  return z + first / freedom + second / freedom ** 2 + third / freedom ** 3;
}

/** ln(1 / 0.01): with 99 % confidence, what n draws have not seen has a probability of at most this over n. */
export const LOG_CONFIDENCE = Math.log(100);

/**
 * |E| <= |mean| + |mean - E|, and |mean - E| is a few standard errors. Draws are few, and what they have not
 * seen they cannot show: with 99 % confidence it has at most the probability ln(100) / n. The probabilities of the
 * draws dominate what the rows can add (draw.ts), so a row that was not seen has |D| like those that were,
 * and all of them together add at most ln(100) / n times the largest.
 *
 * @param norm |mean|. @param squares sum of |D_k|^2. @param largest |D_k|.
 */
export function meanError(
  draws: number,
  norm: number,
  squares: number,
  largest: number,
): MeanError {
  const freedom = Math.max(1, draws - 1);
  const variance = Math.max(0, squares / draws - norm * norm) / freedom;
  const standardError = Math.sqrt(variance);
  return {
    norm,
    standardError,
    deviation: deviationsOf(freedom) * standardError,
    unseen: (LOG_CONFIDENCE / draws) * largest,
  };
}
