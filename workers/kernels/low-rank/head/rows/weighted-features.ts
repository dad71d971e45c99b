/** Features of blocks of rows, as the chain takes them. */

import type { Real } from '../../arithmetic/arithmetic.js';
import { evaluateFeatures, fillSlots, slotTable } from '../../features/evaluate.js';
import type { FeatureSet } from '../../features/features.js';
import { BLOCK } from '../block.js';
import { DRAWN_GROUPS, type DrawnFeatures, type HeadPlan } from '../plan.js';
import type { Workspace } from '../workspace.js';

/** A function of the coordinates and weights of a block of rows. */
export type WeightedFeatures = (
  coordinates: Real,
  count: number,
  weight: (r: number) => number,
  phi: Real,
) => void;

/**
 * The features of a block of rows and behind them the mixtures of the drawn features, group by group, weighted, in the
 * arithmetic's precision: phi (featureRows, BLOCK), rows past count and rows of weight 0 are 0.
 */
export function weightedFeatures(space: Workspace): WeightedFeatures {
  const { arithmetic, head, plan, features, weights } = space;
  const { m } = plan;
  const mixtures = mix(space);
  return (coordinates, count, weight, phi) => {
    evaluateFeatures(arithmetic, coordinates, head.d, features);
    weights.fill(0);
    for (let r = 0; r < count; r++) weights[r] = weight(r);
    arithmetic.weighFeatures(m, BLOCK, features.phi, weights, phi);
    mixtures?.(phi, phi.subarray(m * BLOCK));
  };
}

/**
 * The mixtures (count, BLOCK) of the features that are left out: of all features, the product over directions of
 * 1 + sum_n s_an rho_a^(n/2) h_n(x_a), less the same of those that are used. `used`: these, weighted, (m, BLOCK).
 */
function mix({ arithmetic, plan, features, weights, head }: Workspace) {
  const { drawnFeatures, m } = plan;
  if (!drawnFeatures) return null;
  const { count, ends } = drawnFeatures;
  const slots = ends[ends.length - 1];
  const values = slotTable(arithmetic, degreesOf(drawnFeatures, plan.features), slots, BLOCK);
  const signs = arithmetic.sums(count * slots);
  signs.set(drawnFeatures.signs);
  // A group is the mean of its mixtures.
  const scale = Math.sqrt(DRAWN_GROUPS / count);
  const minusUsed = arithmetic.array(count * m);
  minusUsed.set(signsOf(drawnFeatures, plan).map((sign) => -scale * sign));
  const [products, scaled] = [arithmetic.sums(count * BLOCK), arithmetic.sums(BLOCK)];
  const ofDirections = arithmetic.indices(ends);
  return (used: Real, to: Real): void => {
    fillSlots(arithmetic, values, features.transposed);
    const table = values.table.subarray(BLOCK);
    arithmetic.signedProducts(count, BLOCK, head.d, slots, ofDirections, signs, table, products);
    for (let r = 0; r < BLOCK; r++) scaled[r] = scale * weights[r];
    arithmetic.weighFeatures(count, BLOCK, products, scaled, to);
    arithmetic.gemm(count, BLOCK, m, minusUsed, used, to, true);
  };
}

/** The degrees of all directions as slots of features. */
function degreesOf({ ends }: DrawnFeatures, { rho }: FeatureSet) {
  const [slotDirection, slotDegree]: Int32Array[] = [0, 1].map(
    () => new Int32Array(ends[ends.length - 1]),
  );
  for (let a = 0, s = 0; a < ends.length; a++) {
    for (let n = 1; s < ends[a]; s++, n++) {
      slotDirection[s] = a;
      slotDegree[s] = n;
    }
  }
  return { slotDirection, slotDegree, rho };
}

/** The signs of the features that are used (count, m); 0 where a mixture of all has not got that degree. */
function signsOf({ count, ends, signs }: DrawnFeatures, { m, features }: HeadPlan): Float32Array {
  const { base, slot, slotDirection, slotDegree } = features;
  const slots = ends[ends.length - 1];
  const found = new Float32Array(count * m);
  for (let k = 0; k < count; k++) {
    found[k * m] = 1;
    for (let f = 1; f < m; f++) {
      const a = slotDirection[slot[f]];
      const s = (a === 0 ? 0 : ends[a - 1]) + slotDegree[slot[f]] - 1;
      found[k * m + f] = s < ends[a] ? found[k * m + base[f]] * signs[k * slots + s] : 0;
    }
  }
  return found;
}
