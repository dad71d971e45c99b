/** Why a kernel was chosen or was not, in a sentence for the answer. */
import type { Miss } from '../../workers/kernels/low-rank/plan/plan.js';

/** Below this relative error float32 can promise nothing. */
export const FLOAT32_TOLERANCE = 1e-5;

export function percent(x: number): string {
  return `${(100 * x).toPrecision(2)} %`;
}

export function seconds(x: number): string {
  return x < 1 ? `${Number((1000 * x).toPrecision(2))} ms` : `${Number(x.toPrecision(2))} s`;
}

export const noPlanReason = (exact: number) =>
  `The exact kernel takes about ${seconds(exact)} on one thread: not worth a plan.`;

export const shortReason = (length: number) =>
  `Low-rank pays from ${length} tokens on at the earliest.`;

export function float64Reason(tolerance: number): string {
  return `The tolerance of ${tolerance} is below what float32 can keep (${FLOAT32_TOLERANCE}): computed in float64.`;
}

/** Why auto plans no draws. @param least seconds that they would take at least. */
export const drawsNotWorthAPlan = (least: number, exact: number) =>
  `Drawn keys may take ${seconds(least)} on one thread, too little less than the ${seconds(exact)} of exact to be worth a plan.`;

type Reached = Pick<Miss, 'features' | 'predictedError'>;

export function missReason({ features, predictedError }: Reached, tolerance: number): string {
  return `With ${features} features, the most that pay, low-rank would reach an error of ${percent(predictedError)}, above the tolerance of ${percent(tolerance)}.`;
}

/** Why low-rank, which would keep the tolerance, does not pay. */
export function notCheaperReason(m: string, lowRank: number, exact: number): string {
  return `The exact kernel is cheaper at this length: about ${seconds(exact)} on one thread, low-rank with ${m} ${seconds(lowRank)}.`;
}

/** Why no plan is made, by the best that a plan could be expected to give. */
export function unpaidReason(miss: Miss, exact: number, tolerance: number): string {
  if (!(miss.predictedError <= tolerance)) return missReason(miss, tolerance);
  const m = `${miss.features} features`;
  if (miss.seconds >= exact) return notCheaperReason(m, miss.seconds, exact);
  return `Low-rank with ${m} may take ${seconds(miss.seconds)} on one thread, too little less than the ${seconds(exact)} of exact to be worth its plan.`;
}
