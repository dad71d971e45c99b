/** Features of blocks of rows, as the chain takes them. */

import type { Real } from '../../arithmetic/arithmetic.js';
import { evaluateFeatures } from '../../features/evaluate.js';
import { BLOCK } from '../block.js';
import type { Workspace } from '../workspace.js';

/**
 * The features of a block of rows and behind them those of the drawn features, weighted, in the arithmetic's
 * precision: phi (featureRows, BLOCK), rows past count and rows of weight 0 are 0.
 */
export function weightedFeatures(
  space: Workspace,
  coordinates: Real,
  count: number,
  weight: (r: number) => number,
  phi: Real,
): void {
  const { arithmetic, head, plan, features, drawnFeatures, weights } = space;
  evaluateFeatures(arithmetic, coordinates, head.d, features);
  weights.fill(0);
  for (let r = 0; r < count; r++) weights[r] = weight(r);
  arithmetic.weighFeatures(plan.m, BLOCK, features.phi, weights, phi);
  if (!drawnFeatures) return;
  evaluateFeatures(arithmetic, coordinates, head.d, drawnFeatures);
  const { count: drawn } = plan.drawnFeatures!;
  const last = drawnFeatures.phi.subarray((drawnFeatures.size - drawn) * BLOCK);
  arithmetic.weighFeatures(drawn, BLOCK, last, weights, phi.subarray(plan.m * BLOCK));
}
