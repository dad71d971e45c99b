import type { Rates } from './cost.js';

export interface PlanOptions {
  /** Relative error that the upper limit of the estimate shall not exceed. */
  readonly tolerance: number;
  /** Use this number of features, whatever the error. */
  readonly features?: number;
  /** Treat no row exactly, whatever the error: to see what the outliers are worth. */
  readonly withoutOutliers?: boolean;
  readonly seed: number;
  readonly rates: Rates;
  /** The gradient will be corrected: its error is the standard error of that. */
  readonly correction?: boolean;
  /** The plan is for the attention output alone. */
  readonly outputOnly?: boolean;
  /** The plan is for a run that answers them, too. */
  readonly inputGradients?: boolean;
}
