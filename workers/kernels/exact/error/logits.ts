/** How far logits may be rounded. */
import type { ExactPlan, Workspace } from '../../attention/plan.js';

export const largestOf = (norms: Float32Array) => norms.reduce((a, b) => Math.max(a, b), 0);

/** |q| of a row of a wave, by what it carries. @param otherwise where it carries nothing, which tells nothing. */
export const lengthOf = ({ normS, normQS }: Workspace, row: number, otherwise: number) =>
  normS[row]! > 0 ? normQS[row]! / normS[row]! : otherwise;

/**
 * beta |q| |k| of the longest queries and keys of a wave. A cap c lets no logit x exceed it, but its slope 1 - tanh^2(x / c),
 * by which gradients are multiplied, changes with x by up to 2 / c of itself.
 */
export function largestLogit(plan: ExactPlan, { largestQ, largestK }: Workspace): number {
  return roundedLogit(plan, largestOf(largestQ) * largestOf(largestK));
}

/** What is rounded of a logit, in units of roundoff. @param product |q| |k| */
export function roundedLogit({ problem }: ExactPlan, product: number): number {
  const { softcap: cap, scaling } = problem;
  const logit = scaling * product;
  return cap ? Math.min(logit, cap) + (2 * logit) / cap : logit;
}
