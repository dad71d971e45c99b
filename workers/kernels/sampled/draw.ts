/** Which far keys a block meets: a systematic draw in the order of the keys. */
import type { Range } from '../../mask.js';

/** Share of the probability that no proxy decides. */
const EVEN = 0.02;
/** Least probability of a key: its weight 1 / pi is to stay far from the end of float32. */
export const LEAST_PROBABILITY = 2 ** -14;

/** Drawn keys and their probabilities; `count` of each. */
export interface Drawn {
  readonly index: Int32Array;
  readonly probability: Float64Array;
  count: number;
}

/** p_j of far keys, mixed with their mean. @param squares p_j^2 / spread_j^2. */
export function worthOf(
  squares: Float32Array,
  spread: Float32Array,
  far: readonly Range[],
  to: Float64Array,
): number {
  let [total, n] = [0, 0];
  for (const { first, last } of far) {
    for (let j = first; j < last; j++, n++) {
      const p = spread[j]! * Math.sqrt(squares[j]!);
      to[n] = p;
      total += p;
    }
  }
  const even = (EVEN * total) / Math.max(1, n);
  for (let k = 0; k < n; k++) to[k] = (1 - EVEN) * to[k]! + even;
  return n;
}

/**
 * Draws key j with probability pi_j = min(1, scale p_j).
 *
 * @param u uniform in [0, 1). @param worth p_j of far keys one after the other.
 * @returns false: there are more than there is room for.
 */
export function draw(
  worth: Float64Array,
  far: readonly Range[],
  scale: number,
  u: number,
  drawn: Drawn,
): boolean {
  const { index, probability } = drawn;
  drawn.count = 0;
  let [sum, before, k] = [u, 0, 0];
  for (const { first, last } of far) {
    for (let j = first; j < last; j++, k++) {
      const pi = Math.min(1, Math.max(LEAST_PROBABILITY, scale * worth[k]!));
      sum += pi;
      const after = Math.floor(sum);
      if (after === before) continue;
      before = after;
      if (drawn.count === index.length) return false;
      index[drawn.count] = j;
      probability[drawn.count++] = pi;
    }
  }
  return true;
}
