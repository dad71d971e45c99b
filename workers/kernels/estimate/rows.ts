/** Drawing rows at random, with probabilities that suit what is to be estimated. */

export interface SampledRow {
  readonly index: number;
  /** Of this row in one draw. */
  readonly probability: number;
}

/** Share of draws that ignore the weights: no row is ever impossible. */
const UNIFORM_SHARE = 0.1;

/** Uniform in [0, 1), the same sequence for the same seed (mulberry32). */
export function uniformNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * `draws` independent draws, with replacement, of rows in proportion to `weights`, a tenth of them
 * uniform.
 */
export function sampleRows(weights: Float64Array, draws: number, seed: number): SampledRow[] {
  const total = weights.reduce((a, b) => a + b, 0);
  const share = total > 0 ? UNIFORM_SHARE : 1;
  const probability = (index: number) =>
    share / weights.length + (total > 0 ? ((1 - share) * weights[index]!) / total : 0);
  const cumulative = new Float64Array(weights.length);
  let sum = 0;
  for (let i = 0; i < weights.length; i++) cumulative[i] = sum += probability(i);
  const next = uniformNumbers(seed);
  return Array.from({ length: draws }, () => {
    const index = firstAbove(cumulative, next() * sum);
    return { index, probability: probability(index) };
  });
}

/**
 * The same from at most a few clusters of `size` neighbours: clusters are drawn first, then rows in them.
 * Every draw keeps its probability; draws of one cluster are no longer independent.
 */
export function sampleClusters(
  weights: Float64Array,
  size: number,
  draws: number,
  seed: number,
): SampledRow[] {
  if (weights.length <= TURNED_UNITS * size) return sampleRows(weights, draws, seed);
  const sums = new Float64Array(weights.length / size).map((_, k) =>
    weights.subarray(k * size, (k + 1) * size).reduce((a, b) => a + b, 0),
  );
  return sampleRows(sums, TURNED_UNITS, seed).flatMap((cluster, k) => {
    const first = cluster.index * size;
    const mine =
      Math.floor(((k + 1) * draws) / TURNED_UNITS) - Math.floor((k * draws) / TURNED_UNITS);
    return sampleRows(weights.subarray(first, first + size), mine, seed + 1 + k).map((row) => ({
      index: first + row.index,
      probability: cluster.probability * row.probability,
    }));
  });
}

/** Index of the first entry of an increasing list that is larger than x. */
function firstAbove(list: Float64Array, x: number): number {
  let [low, high] = [0, list.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** One of each of `draws` equal stretches of 0 ... n - 1, or all numbers if there are not more. */
export function spreadRows(n: number, draws: number, seed: number): number[] {
  if (n <= draws) return Array.from({ length: n }, (_, k) => k);
  const next = uniformNumbers(seed);
  return Array.from({ length: draws }, (_, k) => Math.floor(((k + next()) * n) / draws));
}

/** Key/value heads of which rows are drawn when keys have to be projected for each (rotary positions). */
export const TURNED_UNITS = 4;
