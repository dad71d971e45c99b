/**
 * From the far keys of some blocks to the scale c of all draws: how many keys it draws, and the variance that it leaves.
 *
 * With pi_j = min(1, c p_j) the variance of a gradient is, to first order, the sum over far keys of (1 / pi_j - 1) a_j,
 * a_j the square of what the key adds to it. Keys of about the same p_j go together: sums by size, for any c at once.
 */
import {
  LEAST_OCTAVE,
  SIZES,
  SIZES_OF_OCTAVE,
  SUMS_OF_SIZE,
} from '../../inner/operations/proxies.js';

export const NAMES = ['query', 'key', 'value'] as const;
export type Name = (typeof NAMES)[number];

/**
 * (SIZES, SUMS_OF_SIZE), as `add_keys` makes them of keys whose p_j is of one size: how many there are, the sum of p_j, and
 * by gradient the sums of a_j and of a_j / p_j. Additive over blocks.
 */
export type KeySums = Float64Array;

const [COUNT, WORTH, SQUARES, OVER] = [0, 1, 2, 2 + NAMES.length];

export const makeKeySums = (): KeySums => new Float64Array(SIZES * SUMS_OF_SIZE);

/** Adds what other blocks say. */
export function joinKeys(to: KeySums, from: KeySums): void {
  for (let k = 0; k < to.length; k++) to[k]! += from[k]!;
}

/** (SIZES + 1, SUMS_OF_SIZE): sums over all smaller sizes. */
export type RunningSums = Float64Array;

export function runningSums(sums: KeySums): RunningSums {
  const running = new Float64Array(sums.length + SUMS_OF_SIZE);
  for (let k = 0; k < sums.length; k++) running[k + SUMS_OF_SIZE] = running[k]! + sums[k]!;
  return running;
}

/** The size of keys of which some have c p_j < 1 and some not: all of the smaller ones have. */
const sizeAtOne = (scale: number) =>
  Math.min(
    SIZES - 1,
    Math.max(0, Math.floor(SIZES_OF_OCTAVE * (-Math.log2(scale) - LEAST_OCTAVE))),
  );

/** Number of keys that are drawn: the sum of min(1, scale p_j). */
export function keysAt(sums: RunningSums, scale: number): number {
  const at = SUMS_OF_SIZE * sizeAtOne(scale);
  const next = at + SUMS_OF_SIZE;
  const here = (name: number) => sums[next + name]! - sums[at + name]!;
  const surely = sums[SIZES * SUMS_OF_SIZE + COUNT]! - sums[next + COUNT]!;
  return scale * sums[at + WORTH]! + Math.min(here(COUNT), scale * here(WORTH)) + surely;
}

/** Variance of a gradient by the draws, of all keys or of the first `sizes` sizes. */
export function varianceAt(sums: RunningSums, name: Name, scale: number, sizes = SIZES): number {
  const size = Math.min(sizes, sizeAtOne(scale));
  const of = (k: number) => {
    const at = k * SUMS_OF_SIZE + NAMES.indexOf(name);
    return sums[at + OVER]! / scale - sums[at + SQUARES]!;
  };
  const below = of(size);
  return size < sizes ? below + Math.max(0, of(size + 1) - below) : below;
}

/** How many sizes, from the least likely keys on, are drawn less than `draws` times in all. */
export function rareSizes(sums: RunningSums, scale: number, draws: number): number {
  const before = (size: number) => {
    const at = size * SUMS_OF_SIZE;
    return Math.min(scale * sums[at + WORTH]!, sums[at + COUNT]!);
  };
  let size = 0;
  while (size < SIZES && before(size + 1) < draws) size++;
  return size;
}

/** Scales to choose from, rising. */
export const SCALES: readonly number[] = Array.from({ length: SIZES }, (_, k) => {
  return 2 ** (k / SIZES_OF_OCTAVE - LEAST_OCTAVE - SIZES / SIZES_OF_OCTAVE);
});
