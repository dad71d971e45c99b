/** From the variances of the draws to the figures in the answer. */
import type { ExactPlan } from '../../attention/plan.js';
import { type ErrorEstimate, frobenius } from '../../estimate/estimate.js';
import { DEVIATIONS } from '../../estimate/mean.js';
import { type ErrorEstimates, roundingError, vanishes } from '../../exact/error/estimate.js';
import { type ParameterGradients, tensorsOf } from '../../result.js';

/** What was measured while the gradients were made. */
export interface Measured {
  /** By tensor. */
  readonly variances: Readonly<Record<string, number>>;
  /** Query rows of the blocks that were drawn in halves. */
  readonly rows: number;
  /** No logit exceeds it. */
  readonly logit: number;
}

/** @param norms of the gradients of attention states, in the space in which they are measured, by name. */
export function drawErrors(
  plan: ExactPlan,
  gradients: ParameterGradients,
  norms: Readonly<Record<string, number>>,
  { variances, rows, logit }: Measured,
): ErrorEstimates {
  const rounding = roundingError(plan, logit);
  const estimate = (name: string, norm: number, isZero: () => boolean): ErrorEstimate => {
    const figures = { confidence: 0.99, rows_sampled: rows } as const;
    if (!(norm > 0)) {
      const off = isZero() ? 0 : 1;
      return { relative: off, upper: off, standard_error: 0, ...figures };
    }
    const relative = Math.sqrt(variances[name] ?? 0) / norm;
    const upper = DEVIATIONS * relative + rounding;
    return { relative, upper, standard_error: relative, ...figures };
  };
  const parameters = tensorsOf(gradients).map(
    ([name, x]) =>
      [name, estimate(name, frobenius(x), () => vanishes(plan.problem, name))] as const,
  );
  const states = Object.entries(norms).map(
    ([name, norm]) => [name, estimate(name, norm, () => variances[name] === undefined)] as const,
  );
  return Object.fromEntries([...parameters, ...states]);
}
