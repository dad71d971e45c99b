/**
 * The tail: features that the chain leaves out, drawn at random, to learn what their absence costs.
 *
 * The kernel that is left out is R(x, z) = sum of rho^alpha h_alpha(x) h_alpha(z) over all multi-indices alpha
 * beyond the first m, and the error of a gradient is, to first order, the same sum of what single
 * features contribute. Drawn with probability p_alpha, feature alpha times rho^alpha / p_alpha estimates all of
 * it without bias, from all rows at once. Rows drawn at random would do, too; but a sum over L
 * unrelated rows is known from n of them no better than sqrt(L / n), and the features that matter are
 * hundreds, however many rows there are.
 */
import { type FeatureSet, selectFeatures } from './features.js';
import { fullWidth, type Head } from './head.js';
import { layout, MOST_SEGMENTS } from './layout.js';
import type { Random } from './random.js';

export interface Tail {
  /**
   * h_alpha of the draws, without rho: its last `count` features are the draws, the others serve to
   * make them.
   */
  readonly features: FeatureSet;
  readonly count: number;
  /** rho^alpha / p_alpha over the number of draws in a group, for every draw. */
  readonly coefficient: Float64Array;
}

/** The draws are dealt to so many groups, each with an unbiased estimate of its own. */
export const TAIL_GROUPS = 16;

/** Numbers that a head may keep of what drawn features add to its gradients: 32 MiB. */
const TAIL_NUMBERS = 2 ** 22;

/** Full width and causal masks have no use for drawn features, and very wide inputs no room. */
export function canDrawTail(head: Head): boolean {
  const { scores, value } = fullWidth(head);
  const numbers = MOST_SEGMENTS * TAIL_GROUPS * layout(head).gradientTotal;
  return !head.causal && !scores && !value && numbers <= TAIL_NUMBERS;
}

/** Multi-indices of largest weight that are drawn from a list; what is behind them is drawn by rejection. */
const LISTED = 1024;

/** What all features weigh, prod_a 1 / (1 - rho_a), and the sum of their squares. */
function masses(rho: Float64Array): { all: number; squares: number } {
  let [all, squares] = [1, 1];
  for (const r of rho) {
    all /= 1 - r;
    squares /= 1 - r * r;
  }
  return { all, squares };
}

/**
 * (sum rho^alpha)^2 / sum rho^(2 alpha) beyond the first m features: so many, were they all of one weight, would
 * make the same error on rows without structure.
 */
export function tailSize({ rho, weight }: FeatureSet, m: number): number {
  let { all, squares } = masses(rho);
  for (const w of weight.subarray(0, m)) {
    all -= w;
    squares -= w * w;
  }
  // What rounding left of a difference says nothing.
  return squares > 1e-14 && all > 0 ? (all * all) / squares : 1;
}

/** Draws `count` features, a multiple of TAIL_GROUPS, beyond the first m; null when there are none. */
export function drawTail(
  sigma: Float64Array,
  m: number,
  count: number,
  random: Random,
): Tail | null {
  const listed = selectFeatures(sigma, m + LISTED);
  if (count === 0 || listed.size <= m) return null;
  // A list that ended by itself has all that is worth anything.
  const beyond = listed.size < m + LISTED ? null : rejection(listed, random);
  const cumulative = new Float64Array(listed.size - m);
  let mass = 0;
  for (let f = m; f < listed.size; f++) {
    mass += listed.weight[f];
    cumulative[f - m] = mass;
  }
  const share = beyond === null ? 0 : beyond.mass / (mass + beyond.mass);
  const group = count / TAIL_GROUPS;
  const drawn = Array.from({ length: count }, () => {
    if (beyond && random.uniform() < share) {
      const { index, weight } = beyond.draw();
      return { index, coefficient: weight / share / group };
    }
    const at = random.uniform() * mass;
    const f = cumulative.findIndex((c) => c > at);
    return {
      index: multiIndex(listed, f < 0 ? listed.size - 1 : m + f),
      coefficient: mass / (1 - share) / group,
    };
  });
  return {
    features: closure(
      drawn.map(({ index }) => index),
      sigma,
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
 * again until the index is not in the list. s = 1 is what they weigh; less of it where hardly any
 * would be accepted. null: nothing is behind the list.
 */
function rejection(listed: FeatureSet, random: Random) {
  const { rho, weight } = listed;
  let mass = masses(rho).all;
  for (const w of weight) mass -= w;
  // What rounding left of the difference: not worth a draw, but it has to have a chance.
  mass = Math.max(mass, 1e-12 * masses(rho).all);
  for (let power = 1; power > 0.05; power -= 0.05) {
    const tilted = rho.map((r) => r ** power);
    const all = masses(tilted).all;
    let accepted = 1;
    for (const w of weight) accepted -= w ** power / all;
    if (!(accepted > ACCEPTED)) continue;
    const isListed = membership(listed);
    const logs = tilted.map(Math.log);
    return {
      mass,
      draw(): { index: MultiIndex; weight: number } {
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
      },
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
