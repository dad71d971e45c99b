/** What the draws of a problem say about the error of a gradient; that of the whole from those of its parts. */
import { deviationsOf, type MeanError } from '../../estimate/mean.js';
import type { Spread } from './statistics.js';

/** How far the mean of independent draws is from the matrix that it estimates. */
export interface Scatter extends Spread {
  /** Mean square of that distance. */
  readonly variance: number;
  readonly freedom: number;
  /** What rows may add that no draw has seen. */
  readonly unseen: number;
}

export interface TensorEstimate {
  /** The estimated error matrix; `correction` adds it to remove the bias. */
  readonly mean: Float64Array;
  /** Scatter of drawn rows; where features are drawn too, of what these leave to the rows. */
  readonly rows: Scatter;
  /** Scatter of drawn features; null: none are drawn. */
  readonly features: Scatter | null;
  /** Root of the sum over all rows of the squares of what may be rounded away of them, in units of float32: rounding.ts. */
  readonly terms: number;
}

/** Scatter of the mean of n draws. */
export const scatterOf = (
  { standardError, unseen }: MeanError,
  draws: number,
  spread: Spread,
): Scatter => ({
  ...spread,
  variance: standardError ** 2,
  freedom: Math.max(1, draws - 1),
  unseen,
});

/** Scatter of what was compared whole. */
export const NO_SCATTER: Scatter = {
  ...{ variance: 0, freedom: 1, unseen: 0 },
  ...{ spread: 0, along: 0, deviations: 0 },
};

type Scatters = Pick<TensorEstimate, 'rows' | 'features'>;

/** @returns the standard error of the mean, and the 99 % limit of its distance from the error, at least 2.58 standard errors. */
export function distanceOf({ rows, features }: Scatters): {
  readonly standardError: number;
  readonly limit: number;
} {
  const limits = [rows, features ?? NO_SCATTER].map(
    ({ variance, freedom, unseen }) => deviationsOf(freedom) * Math.sqrt(variance) + unseen,
  );
  return {
    standardError: Math.sqrt(rows.variance + (features?.variance ?? 0)),
    limit: Math.hypot(...limits),
  };
}

/**
 * What the draws say about the norm of the error E itself. Of rows alone: the norm of the mean, and |E| <= |mean| + limit.
 *
 * Where features are drawn, most of |mean|^2 is scatter, of which only the sum is large: it has hundreds of directions. With C the
 * covariance of the mean, |mean|^2 - tr C has the mean |E|^2 and the variance 4 E'CE + 2 tr C^2. The jackknife's is that of products of
 * draws with all others, four times (J. N. Arvesen, 1969): 4 E'CE + 4 tr C^2 on average, never taken for less than 2 tr C^2. Where no
 * products are known E'CE is at most |E|^2 (tr C^2)^(1/2). The largest |E|^2 = x that is no more than z deviations above solves
 * (x - U)^2 = z^2 times that. Rows and features may share a direction.
 */
export function normOf(norm: number, scatters: Scatters): { norm: number; upper: number } {
  const { rows, features } = scatters;
  if (!features) return { norm, upper: norm + distanceOf(scatters).limit };
  const square = Math.max(0, norm ** 2 - rows.variance - features.variance);
  let [jackknife, shares, spreads] = [0, 0, 0];
  for (const { spread, along, deviations } of [rows, features]) {
    if (along === null) shares += 2 * deviations ** 2 * spread;
    else jackknife += 4 * deviations ** 2 * along;
    spreads += deviations * spread;
  }
  const variance = Math.max(jackknife, 2 * spreads ** 2);
  const beyond = Math.sqrt(2 * shares * square + shares ** 2 + variance);
  return { norm: Math.sqrt(square), upper: Math.sqrt(square + shares + beyond) + rows.unseen };
}

/**
 * Parts draw independently, so squares add up. Degrees of freedom of a sum are by B. L. Welch (1947) and F. E.
 * Satterthwaite (1946). What no draw of any part has seen is bound by the largest of them as within one (mean.ts).
 *
 * @param mean the sum of those of the parts.
 */
export function joinEstimates(
  parts: readonly Omit<TensorEstimate, 'mean'>[],
  mean: Float64Array,
): TensorEstimate {
  const features = parts.flatMap((part) => part.features ?? []);
  return {
    mean,
    rows: joinScatters(parts.map(({ rows }) => rows)),
    features: features.length > 0 ? joinScatters(features) : null,
    terms: Math.hypot(...parts.map(({ terms }) => terms)),
  };
}

function joinScatters(parts: readonly Scatter[]): Scatter {
  const variance = parts.reduce((sum, part) => sum + part.variance, 0);
  const shares = parts.map((part) => ({ share: part.variance / variance, of: part.freedom }));
  return {
    variance,
    freedom: variance > 0 ? 1 / shares.reduce((sum, { share, of }) => sum + share ** 2 / of, 0) : 1,
    unseen: Math.max(...parts.map(({ unseen }) => unseen)),
    spread: parts.reduce((sum, { spread }) => sum + spread, 0),
    // What is known of the direction of each is not of that of their sum.
    along: parts.length === 1 ? parts[0]!.along : null,
    deviations: Math.max(...parts.map(({ deviations }) => deviations)),
  };
}
