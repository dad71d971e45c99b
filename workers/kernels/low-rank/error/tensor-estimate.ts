/** What the draws of a problem say about the error of a gradient; that of the whole from those of its parts. */
import { DEVIATIONS, deviationsOf, type MeanError } from '../../estimate/mean.js';
import { limitOfNorm, type SquareEstimate } from './statistics.js';

/** How far the mean of independent draws is from the matrix that it estimates. */
export interface Scatter {
  /** Mean square of that distance. */
  readonly variance: number;
  readonly freedom: number;
  /** What rows may add that no draw has seen. */
  readonly unseen: number;
}

export interface TensorEstimate {
  /** The estimated error matrix, to be added by those who want no bias. */
  readonly mean: Float64Array;
  /** Of drawn rows; where features are drawn too, of what normalisation does. */
  readonly rows: Scatter;
  /** Of drawn features: by their own scatter, and by what the rows say of those that were not drawn. */
  readonly features: { readonly scatter: Scatter; readonly left: SquareEstimate } | null;
  /** Root of the sum over all rows of the squares of what they carry before it cancels: rounding.ts. */
  readonly terms: number;
}

/** Of n draws. */
export const scatterOf = ({ standardError, unseen }: MeanError, draws: number): Scatter => ({
  variance: standardError ** 2,
  freedom: Math.max(1, draws - 1),
  unseen,
});

/** Of what was looked at whole. */
export const NO_SCATTER: Scatter = { variance: 0, freedom: 1, unseen: 0 };

/** @returns the standard error, and the 99 % limit of the distance of the mean, at least 2.58 standard errors. */
export function distanceOf({ rows, features }: Pick<TensorEstimate, 'rows' | 'features'>): {
  readonly standardError: number;
  readonly limit: number;
} {
  const ofRows = Math.sqrt(rows.variance);
  const limit = deviationsOf(rows.freedom) * ofRows + rows.unseen;
  if (!features) return { standardError: ofRows, limit };
  const { scatter, left } = features;
  const ofFeatures = Math.sqrt(scatter.variance);
  const distance = Math.max(deviationsOf(scatter.freedom) * ofFeatures, limitOfNorm(left));
  return {
    standardError: Math.hypot(ofRows, Math.max(ofFeatures, distance / DEVIATIONS)),
    limit: Math.hypot(limit, distance),
  };
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
    features: features.length > 0 ? joinFeatures(features) : null,
    terms: Math.hypot(...parts.map(({ terms }) => terms)),
  };
}

function joinFeatures(parts: readonly NonNullable<TensorEstimate['features']>[]) {
  const left = parts.map((part) => part.left);
  return {
    scatter: joinScatters(parts.map(({ scatter }) => scatter)),
    left: {
      square: left.reduce((sum, { square }) => sum + square, 0),
      deviation: Math.hypot(...left.map(({ deviation }) => deviation)),
      deviations: Math.max(...left.map(({ deviations }) => deviations)),
    },
  };
}

function joinScatters(parts: readonly Scatter[]): Scatter {
  const variance = parts.reduce((sum, part) => sum + part.variance, 0);
  const shares = parts.map((part) => ({ share: part.variance / variance, of: part.freedom }));
  return {
    variance,
    freedom: variance > 0 ? 1 / shares.reduce((sum, { share, of }) => sum + share ** 2 / of, 0) : 1,
    unseen: Math.max(...parts.map(({ unseen }) => unseen)),
  };
}
