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
