/**
 * Drawn features: random mixtures of those that the chain leaves out, to learn what their absence costs.
 *
 * The kernel that is left out is R(x, z) = sum of phi_alpha(x) phi_alpha(z) over all multi-indices alpha beyond the
 * first m, and the error of a gradient is, to first order, the same sum of what single features contribute. With random
 * signs s_an and s_alpha = prod_a s_(a, alpha_a), the mixture f = sum_alpha s_alpha phi_alpha has the mean
 * E f(x) f(z) = R(x, z): signs of different alpha are uncorrelated. So a mixture estimates all of it without
 * bias, from all rows at once, and no feature can be missed, however much it carries: it is in every mixture, and
 * what it adds by itself has no scatter. Only products of two different features have, in every mixture. And all
 * features together, infinitely many, are a product over the directions, so that a mixture costs no more than a feature.
 *
 * Rows drawn at random would do, too; but a sum over L unrelated rows is known from n of them no better than
 * sqrt(L / n), and the features that matter are hundreds, however many rows there are.
 */

import type { Random } from '../../../random.js';
import type { FeatureSet } from '../../features/features.js';
import { fullWidth, type Head } from '../../head/head.js';
import { layout, MOST_SEGMENTS } from '../../head/layout.js';
import { DRAWN_GROUPS, type DrawnFeatures } from '../../head/plan.js';

/** Numbers that a head may keep of what drawn features add to its gradients: 32 MiB. */
const DRAWN_NUMBERS = 2 ** 22;

/** Full width, causal masks and the output alone have no use for drawn features, and very wide inputs no room. */
export function canDrawFeatures(head: Head): boolean {
  const { scores, value } = fullWidth(head);
  const numbers = MOST_SEGMENTS * DRAWN_GROUPS * layout(head).gradientTotal;
  return !head.causal && !scores && !value && numbers > 0 && numbers <= DRAWN_NUMBERS;
}

/** What all features weigh that are not in a list, and their squares, where they weigh as much more than with normal rows as its last. */
function behind({ rho, weight }: FeatureSet, weights: Float64Array) {
  let [all, squares] = [1, 1];
  for (const r of rho) {
    all /= 1 - r;
    squares /= 1 - r * r;
  }
  const nothing = NOTHING * all;
  let [last, normal] = [0, 0];
  for (let f = 0; f < weight.length; f++) {
    all -= weight[f];
    squares -= weight[f] ** 2;
    if (f < weight.length - LAST) continue;
    last += weights[f];
    normal += weight[f];
  }
  // Far below what float32 rounds there is nothing but the rounding of these differences.
  if (all < nothing) return { mass: 0, squares: 0 };
  const growth = normal > 0 ? last / normal : 1;
  return { mass: growth * all, squares: growth ** 2 * Math.max(squares, 0) };
}

/** Features at the end of the list. */
const LAST = 128;
/** Share of all weights that adds nothing. */
const NOTHING = 1e-12;

/**
 * Squared error of an estimate from one mixture over the square of the error itself, on rows without structure: (sum of
 * weights)^2 / sum of their squares beyond the first m features. `weights`: what the features of the list weigh;
 * infinite where it has none beyond m.
 */
export function effectiveFeatures(listed: FeatureSet, weights: Float64Array, m: number): number {
  if (weights.length <= m) return Number.POSITIVE_INFINITY;
  let { mass, squares } = behind(listed, weights);
  for (let f = m; f < weights.length; f++) {
    mass += weights[f];
    squares += weights[f] ** 2;
  }
  return squares > 0 ? mass ** 2 / squares : 1;
}

/** Degrees of a direction whose rho^n is below this are left out of mixtures: of rows up to five deviations long, float32 rounds as much. */
const NEGLIGIBLE = 2 ** -40;

/** `count` mixtures, a multiple of DRAWN_GROUPS; null where there is nothing to mix. */
export function drawFeatures(
  { rho }: Pick<FeatureSet, 'rho'>,
  count: number,
  random: Random,
): DrawnFeatures | null {
  let slots = 0;
  const ends = Int32Array.from(rho, (r) => {
    const degrees = Math.floor(Math.log(NEGLIGIBLE) / Math.log(r));
    slots += Number.isFinite(degrees) ? degrees : 0;
    return slots;
  });
  if (count === 0 || slots === 0) return null;
  const signs = Float32Array.from({ length: count * slots }, () =>
    random.uniform() < 0.5 ? -1 : 1,
  );
  return { count, ends, signs };
}
