/**
 * From the far keys of some blocks to the scale c of all draws: how many keys it draws, and the variance that it leaves.
 *
 * With pi_j = min(1, c p_j) the variance of a gradient is, to first order, the sum over far keys of (1 / pi_j - 1) a_j,
 * a_j the square of what the key adds to it. Keys of about the same p_j go together: sums by size, for any c at once.
 */

export const NAMES = ['query', 'key', 'value'] as const;
export type Name = (typeof NAMES)[number];

/** Sums over keys whose p_j is of one size; additive over blocks. */
export interface KeySums {
  /** Keys, and the sum of p_j. */
  readonly counts: Float64Array;
  readonly worths: Float64Array;
  /** By gradient: sums of a_j and of a_j / p_j. */
  readonly squares: Readonly<Record<Name, Float64Array>>;
  readonly over: Readonly<Record<Name, Float64Array>>;
}

/** Sizes of an octave, and octaves that are told apart. */
const STEPS = 2;
const [LEAST, MOST] = [-100, 40];
const SIZES = STEPS * (MOST - LEAST);

const byName = (): Record<Name, Float64Array> => ({
  query: new Float64Array(SIZES),
  key: new Float64Array(SIZES),
  value: new Float64Array(SIZES),
});

export const makeKeySums = (): KeySums => ({
  counts: new Float64Array(SIZES),
  worths: new Float64Array(SIZES),
  squares: byName(),
  over: byName(),
});

/** Adds n far keys, each of which stands for `each`. @param square a_j of a gradient, by place among these. */
export function addKeys(
  to: KeySums,
  worth: Float64Array,
  n: number,
  square: (name: Name, k: number) => number,
  each: number,
): void {
  for (let k = 0; k < n; k++) {
    const p = worth[k]!;
    if (!(p > 0)) continue;
    const size = Math.floor(STEPS * (Math.log2(p) - LEAST));
    const at = Math.min(SIZES - 1, Math.max(0, size));
    to.counts[at]! += each;
    to.worths[at]! += each * p;
    for (const name of NAMES) {
      const a = each * square(name, k);
      to.squares[name][at]! += a;
      to.over[name][at]! += a / p;
    }
  }
}

/** Adds what other blocks say. */
export function joinKeys(to: KeySums, from: KeySums): void {
  const add = (x: Float64Array, y: Float64Array) => {
    for (let k = 0; k < SIZES; k++) x[k]! += y[k]!;
  };
  add(to.counts, from.counts);
  add(to.worths, from.worths);
  for (const name of NAMES) {
    add(to.squares[name], from.squares[name]);
    add(to.over[name], from.over[name]);
  }
}

/** Number of keys that are drawn: the sum of min(1, scale p_j). */
export function keysAt({ counts, worths }: KeySums, scale: number): number {
  let total = 0;
  for (let k = 0; k < SIZES; k++) total += Math.min(counts[k]!, scale * worths[k]!);
  return total;
}

/** Variance of a gradient by the draws, of all keys or of the first `sizes` sizes. */
export function varianceAt(
  { squares, over }: KeySums,
  name: Name,
  scale: number,
  sizes = SIZES,
): number {
  const [a, b] = [squares[name], over[name]];
  let total = 0;
  for (let k = 0; k < sizes; k++) total += Math.max(0, b[k]! / scale - a[k]!);
  return total;
}

/** How many sizes, from the least likely keys on, are drawn less than `draws` times in all. */
export function rareSizes({ counts, worths }: KeySums, scale: number, draws: number): number {
  let total = 0;
  for (let k = 0; k < SIZES; k++) {
    total += Math.min(counts[k]!, scale * worths[k]!);
    if (total >= draws) return k;
  }
  return SIZES;
}

/** Scales to choose from, rising. */
export const SCALES: readonly number[] = Array.from(
  { length: 2 * (MOST - LEAST) },
  (_, k) => 2 ** (-MOST + k / 2),
);
