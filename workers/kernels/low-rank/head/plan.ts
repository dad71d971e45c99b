/** What was chosen for one head before the run. */

import type { Balance } from '../features/balance.js';
import type { FeatureSet } from '../features/features.js';
import type { HyperbolicCross } from '../features/hyperbolic-cross.js';

/** Mixtures of features beyond those that are used, with random signs. */
export interface DrawnFeatures {
  readonly count: number;
  /** Where the degrees of each direction (1, 2, ... up to the last that is not negligible) end in the list of all degrees. */
  readonly ends: Int32Array;
  /** 1 or -1 (count, degrees of all directions): the sign of a feature is the product of those of its degrees. */
  readonly signs: Float32Array;
}

/** Groups of mixtures, each with an unbiased estimate of its own. */
export const DRAWN_GROUPS = 16;

/** The matrices B, (d, ..) row-major; empty where there is no adapter for it. */
export interface ConditionalMean {
  /** Slopes of K, X^K and X^V. */
  readonly key: Float64Array;
  readonly inputsK: Float64Array;
  readonly inputsV: Float64Array;
  /** Slopes of U = [K B_Q | X^K A_K'] and of X^V A_V'. */
  readonly u: Float64Array;
  readonly va: Float64Array;
}

export interface HeadPlan {
  readonly balance: Balance;
  /** m features are used; the set holds more: the next ones behind them, which the certificate needs. */
  readonly m: number;
  readonly features: FeatureSet;
  /** What the estimate draws of features beyond them; null: it draws rows alone. */
  readonly drawnFeatures: DrawnFeatures | null;
  /** What rows of P make of the keys: wanted where features are drawn. */
  readonly conditionalMean: ConditionalMean;
  /** Pairs of features and directions of U and of L, where these are of full width. */
  readonly hyperbolicCross: {
    readonly right: HyperbolicCross | null;
    readonly left: HyperbolicCross | null;
  };
  /** Rows treated exactly, in rising order. */
  readonly outlierQueries: Int32Array;
  readonly outlierKeys: Int32Array;
  /** Subtracted from every log w_j, so that the largest weight is 1. */
  readonly logWeightShift: number;
  /** Softmax rows sum to one and rows of dS to zero, so V and X^K may be centred: fewer digits lost. */
  readonly centreV: Float64Array;
  readonly centreXK: Float64Array;
  /** Centres of the rows of X^V and X^V A_V', for the norms of the certificate. */
  readonly centreXV: Float64Array;
  readonly centreVA: Float64Array;
  /**
   * What the features leave out of each query, as a share of its row sum and relative to the worst of
   * them: where to look for errors. 0 for rows that are exact.
   */
  readonly residual: Float32Array;
}

/** Rows of the sums over keys and over queries at thin width: the features, and the drawn ones. */
export function featureRows({ m, drawnFeatures }: HeadPlan): number {
  return m + (drawnFeatures?.count ?? 0);
}
