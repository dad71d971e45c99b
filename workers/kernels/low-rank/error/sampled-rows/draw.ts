/** Random draws with given weights. */
import type { Random } from '../../../random.js';

/** Draws in proportion to weights; uniform if they are all 0. */
export function proportional(weights: Float64Array, random: Random) {
  const cumulative = new Float64Array(weights.length);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    total += weights[i];
    cumulative[i] = total;
  }
  const n = weights.length;
  if (!(total > 0 && Number.isFinite(total))) {
    return { draw: () => random.integer(n), probability: () => 1 / n };
  }
  return {
    draw: () => Math.min(upperBound(cumulative, random.uniform() * total), n - 1),
    probability: (row: number) => weights[row] / total,
  };
}

/** First index whose value exceeds x. */
function upperBound(sorted: Float64Array, x: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}
