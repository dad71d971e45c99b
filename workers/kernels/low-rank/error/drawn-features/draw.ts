/**
 * Drawn features: those that the chain leaves out, drawn at random, to learn what their absence costs.
 *
 * The kernel that is left out is R(x, z) = sum of rho^alpha h_alpha(x) h_alpha(z) over all multi-indices alpha
 * beyond the first m, and the error of a gradient is, to first order, the same sum of what single
 * features contribute. Drawn with probability p_alpha, feature alpha times rho^alpha / p_alpha estimates all of
 * it without bias, from all rows at once. Rows drawn at random would do, too; but a sum over L
 * unrelated rows is known from n of them no better than sqrt(L / n), and the features that matter are
 * hundreds, however many rows there are.
 */

import { proportional } from '../../../estimate/draw.js';
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

/** Multi-indices behind the last that a plan may take that are drawn from a list; those behind it by rejection. */
export const DRAWN_LISTED = 1024;

/** What all features weigh, prod_a 1 / (1 - rho_a), and the sum of their squares. */
function masses(rho: Float64Array): { all: number; squares: number } {
  let [all, squares] = [1, 1];
  for (const r of rho) {
    all /= 1 - r;
    squares /= 1 - r * r;
  }
  return { all, squares };
}

/** The same behind a list, where features weigh as much more than with normal rows as the last of the list do. */
function behind({ rho, weight }: FeatureSet, weights: Float64Array) {
  let { all, squares } = masses(rho);
  let [last, normal] = [0, 0];
  for (let f = 0; f < weight.length; f++) {
    all -= weight[f];
    squares -= weight[f] ** 2;
    if (f < weight.length - LAST) continue;
    last += weights[f];
    normal += weight[f];
  }
  const growth = normal > 0 ? last / normal : 1;
  // Far below what float32 rounds there is nothing but the rounding of these differences.
  if (all < NOTHING * masses(rho).all) return { mass: 0, squares: 0 };
  return { mass: growth * all, squares: growth ** 2 * Math.max(squares, 0) };
}

/** Features at the end of the list. */
const LAST = 256;
/** Share of all weights that adds nothing. */
const NOTHING = 1e-12;

/**
 * What rows of a gradient have in common is linear first, and a single linear feature that is left out can then make
 * most of the error: it is drawn so many times as often as another of its weight.
 */
const LINEAR = 4;

const chance = ({ degree }: FeatureSet, weights: Float64Array, f: number) =>
  (degree[f] === 1 ? LINEAR : 1) * weights[f];

/**
 * Squared error of an estimate from one draw over the square of the error itself, on rows without structure: (sum of
 * weights)^2 / sum of their squares beyond the first m features, were they drawn by weight alone. `weights`: what
 * the features of the list weigh; infinite where it has none beyond m.
 */
export function effectiveFeatures(listed: FeatureSet, weights: Float64Array, m: number): number {
  if (weights.length <= m) return Number.POSITIVE_INFINITY;
  const { mass, squares } = behind(listed, weights);
  let [chances, shares, all] = [mass, mass, squares];
  for (let f = m; f < weights.length; f++) {
    const drawn = chance(listed, weights, f);
    chances += drawn;
    if (drawn > 0) shares += weights[f] ** 2 / drawn;
    all += weights[f] ** 2;
  }
  return all > 0 ? (chances * shares) / all : 1;
}

/**
 * Draws `count` features, a multiple of DRAWN_GROUPS, beyond the first m, by the weights of the list; null when
 * there are none.
 */
export function drawFeatures(
  listed: FeatureSet,
  weights: Float64Array,
  m: number,
  count: number,
  random: Random,
): DrawnFeatures | null {
  if (count === 0 || weights.length <= m) return null;
  const rest = behind(listed, weights);
  const chances = weights.map((_, f) => chance(listed, weights, f)).subarray(m);
  const ways = proportional(chances, random);
  const mass = chances.reduce((sum, c) => sum + c, 0);
  const beyond = rest.mass > 0 ? rejection(listed, random) : null;
  const share = beyond === null ? 0 : rest.mass / (mass + rest.mass);
  const group = count / DRAWN_GROUPS;
  const drawn = Array.from({ length: count }, () => {
    if (beyond && random.uniform() < share) {
      const { index, weight } = beyond();
      return { index, coefficient: weight / share / group };
    }
    const at = ways.draw();
    const probability = (1 - share) * ways.probability(at);
    return {
      index: multiIndex(listed, m + at),
      coefficient: listed.weight[m + at] / probability / group,
    };
  });
  return {
    features: closure(
      drawn.map(({ index }) => index),
      listed.sigma,
    ),
    count,
    coefficient: Float64Array.from(drawn, ({ coefficient }) => coefficient),
  };
}

/** A multi-index as rising pairs of a direction and its degree. */
type MultiIndex = readonly (readonly [direction: number, degree: number])[];

function multiIndex({ base, slot, slotDirection, slotDegree }: FeatureSet, f: number): MultiIndex {
  const pairs: [number, number][] = [];
  for (let at = f; at > 0; at = base[at]) {
    pairs.unshift([slotDirection[slot[at]], slotDegree[slot[at]]]);
  }
  return pairs;
}

/** The smallest share of draws that may be accepted. */
const ACCEPTED = 1e-3;

/**
 * Draws multi-indices behind the list: every degree n_a by itself with probability (1 - t_a) t_a^n, t = rho^s,
 * again until the index is not in the list. s = 1 is what they weigh with normal rows; less of it where
 * hardly any would be accepted. With each its rho^alpha over its probability among those behind the list.
 */
function rejection(listed: FeatureSet, random: Random) {
  const { rho, weight } = listed;
  for (let power = 1; power > 0.05; power -= 0.05) {
    const tilted = rho.map((r) => r ** power);
    const all = masses(tilted).all;
    let accepted = 1;
    for (const w of weight) accepted -= w ** power / all;
    if (!(accepted > ACCEPTED)) continue;
    const isListed = membership(listed);
    const logs = tilted.map(Math.log);
    return (): { index: MultiIndex; weight: number } => {
      for (;;) {
        const index: [number, number][] = [];
        let logWeight = 0;
        for (let a = 0; a < rho.length; a++) {
          const degree = Math.floor(Math.log(1 - random.uniform()) / logs[a]);
          if (!(degree > 0)) continue;
          index.push([a, degree]);
          logWeight += degree * Math.log(rho[a]);
        }
        if (isListed(index, Math.exp(logWeight))) continue;
        // rho^alpha over its probability, tilted^alpha / all / accepted.
        return { index, weight: Math.exp((1 - power) * logWeight) * all * accepted };
      }
    };
  }
  return null;
}

/** The list is sorted: what weighs more than its last is in it. Only ties need a look. */
function membership(listed: FeatureSet): (index: MultiIndex, weight: number) => boolean {
  const last = listed.weight[listed.size - 1];
  const tied = new Set<string>();
  for (let f = listed.size - 1; f >= 0 && listed.weight[f] <= last * (1 + TIE); f--) {
    tied.add(JSON.stringify(multiIndex(listed, f)));
  }
  return (index, weight) =>
    weight > last * (1 + TIE) || (weight >= last * (1 - TIE) && tied.has(JSON.stringify(index)));
}

/** Relative difference of weights that may be rounding. */
const TIE = 1e-9;

/** The features of the indices, without rho, behind what they are made of. */
function closure(indices: readonly MultiIndex[], sigma: Float64Array): FeatureSet {
  const slots = new Map<string, number>();
  const slotDirection: number[] = [];
  const slotDegree: number[] = [];
  const base = [0];
  const slot = [-1];
  const known = new Map([['[]', 0]]);
  const slotOf = (direction: number, degree: number): number => {
    const key = `${direction} ${degree}`;
    const found = slots.get(key);
    if (found !== undefined) return found;
    // A polynomial comes from the two before it.
    if (degree > 1) slotOf(direction, degree - 1);
    slots.set(key, slotDirection.length);
    slotDirection.push(direction);
    return slotDegree.push(degree) - 1;
  };
  const featureOf = (index: MultiIndex): number => {
    const key = JSON.stringify(index);
    const found = known.get(key);
    if (found !== undefined) return found;
    const before = featureOf(index.slice(0, -1));
    base.push(before);
    slot.push(slotOf(...index[index.length - 1]));
    known.set(key, base.length - 1);
    return base.length - 1;
  };
  const made = indices.map(featureOf);
  for (const f of made) {
    base.push(f);
    slot.push(-1);
  }
  return {
    size: base.length,
    base: Int32Array.from(base),
    slot: Int32Array.from(slot),
    slotDirection: Int32Array.from(slotDirection),
    slotDegree: Int32Array.from(slotDegree),
    rho: new Float64Array(sigma.length).fill(1),
    sigma,
    degree: new Int32Array(base.length),
    weight: new Float64Array(base.length).fill(1),
  };
}
