/**
 * Polynomial features of exp(sum_a sigma_a x_a z_a), from Mehler's formula, coordinate by coordinate:
 *
 *     exp(sigma x z) = sqrt(1 - rho^2) g(x) g(z) sum_n rho^n h_n(x) h_n(z)
 *     g(x) = exp(rho^2 x^2 / (2 (1 - rho^2))),  h_n = He_n / sqrt(n!),  sigma = rho / (1 - rho^2)
 *
 * A feature is phi_alpha(x) = prod_a rho_a^(alpha_a / 2) h_(alpha_a)(x_a). The m features with the largest
 * prod_a rho_a^(alpha_a) are taken. All coefficients are positive, so whatever is left out is a positive
 * semidefinite kernel: the certificate rests on that.
 */

/** rho of Mehler's formula for a logit of standard deviation sigma: sigma = rho / (1 - rho^2). */
export function mehlerRho(sigma: number): number {
  // (sqrt(1 + 4 s^2) - 1) / (2 s), written without the cancellation at small s.
  return (2 * sigma) / (Math.sqrt(1 + 4 * sigma * sigma) + 1);
}

/**
 * m features, nested: the first m' of them are the features that a smaller m' would select.
 * Feature f is feature base[f] times the one-dimensional value in slot[f]; feature 0 is the constant 1.
 */
export interface FeatureSet {
  readonly size: number;
  readonly base: Int32Array;
  readonly slot: Int32Array;
  /** Slot s holds rho_a^(n/2) h_n(x_a) for direction a = slotDirection[s] and degree n = slotDegree[s]. */
  readonly slotDirection: Int32Array;
  readonly slotDegree: Int32Array;
  readonly rho: Float64Array;
  readonly sigma: Float64Array;
  /** Total degree of each feature. */
  readonly degree: Int32Array;
  /** prod_a rho_a^(alpha_a), not increasing. */
  readonly weight: Float64Array;
}

/** The first `size` of the features, over the same memory. */
export function firstFeatures(features: FeatureSet, size: number): FeatureSet {
  if (size >= features.size) return features;
  return {
    ...features,
    size,
    base: features.base.subarray(0, size),
    slot: features.slot.subarray(0, size),
    degree: features.degree.subarray(0, size),
    weight: features.weight.subarray(0, size),
  };
}

interface Candidate {
  readonly weight: number;
  /** Among equals the one made first comes first, so that the order is a function of sigma. */
  readonly order: number;
  /** The multi-index without its last direction, and without one step in it. */
  readonly base: number;
  readonly previous: number;
  readonly direction: number;
  readonly power: number;
  readonly degree: number;
}

/** Features below this weight add nothing to a float64 sum of squares. */
const NEGLIGIBLE = 2 ** -106;

/**
 * The m multi-indices of largest weight, best first. sigma (d,) not increasing.
 *
 * A multi-index is read as a sorted list of directions. Its two successors, the last direction once
 * more and the last direction moved on by one, reach every list exactly once and never gain weight, so a
 * heap of candidates yields them in order, and every factor of a feature before the feature.
 */
export function selectFeatures(sigma: Float64Array, m: number): FeatureSet {
  const rho = sigma.map(mehlerRho);
  const slots = new Map<number, number>();
  const slotDirection: number[] = [];
  const slotDegree: number[] = [];
  const base = [0];
  const slot = [-1];
  const degree = [0];
  const weight = [1];
  const heap = new Heap();
  let order = 0;
  const push = (
    weight: number,
    base: number,
    previous: number,
    direction: number,
    power: number,
    degree: number,
  ) => {
    if (!(weight > NEGLIGIBLE)) return;
    heap.push({ weight, order: order++, base, previous, direction, power, degree });
  };
  push(rho[0], 0, 0, 0, 1, 1);
  while (base.length < m) {
    const best = heap.pop();
    if (best === undefined) break;
    const index = base.length;
    const key = best.power * rho.length + best.direction;
    let s = slots.get(key);
    if (s === undefined) {
      s = slotDirection.length;
      slots.set(key, s);
      slotDirection.push(best.direction);
      slotDegree.push(best.power);
    }
    base.push(best.base);
    slot.push(s);
    degree.push(best.degree);
    weight.push(best.weight);
    const a = best.direction;
    push(best.weight * rho[a], best.base, index, a, best.power + 1, best.degree + 1);
    if (a + 1 < rho.length) {
      const moved = (best.weight / rho[a]) * rho[a + 1];
      push(moved, best.previous, best.previous, a + 1, 1, best.degree);
    }
  }
  return {
    size: base.length,
    base: Int32Array.from(base),
    slot: Int32Array.from(slot),
    slotDirection: Int32Array.from(slotDirection),
    slotDegree: Int32Array.from(slotDegree),
    rho,
    sigma,
    degree: Int32Array.from(degree),
    weight: Float64Array.from(weight),
  };
}

/** Largest weight first. */
class Heap {
  readonly #items: Candidate[] = [];

  push(candidate: Candidate): void {
    const items = this.#items;
    let at = items.length;
    items.push(candidate);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(candidate, items[parent])) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = candidate;
  }

  pop(): Candidate | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && isBefore(items[child + 1], items[child])) child++;
      if (!isBefore(items[child], last)) break;
      items[at] = items[child];
      at = child;
    }
    items[at] = last;
    return top;
  }
}

function isBefore(a: Candidate, b: Candidate): boolean {
  return a.weight > b.weight || (a.weight === b.weight && a.order < b.order);
}
