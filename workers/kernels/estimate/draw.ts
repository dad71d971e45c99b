/** Random draws with given weights. */
import type { Random } from '../random.js';

/** Draws with replacement of one of n rows, and the probability of each row in one draw. */
interface Sampler {
  draw(): number;
  probability(row: number): number;
}

interface MixtureSampler extends Sampler {
  /**
   * So many draws at once, evenly over the sum of the probabilities (systematic sampling): a row of probability 1 / count is
   * surely among them, and their mean scatters no more than that of independent draws where neighbours are alike or unrelated.
   */
  spread(count: number): number[];
}

/** Share of the draws that ignore all weights: n draws weigh a row by 1 / UNIFORM_SHARE times the number of rows at most. */
const UNIFORM_SHARE = 0.25;

/**
 * Draws that suit several sums at once: every weight in `families` says how much the rows can matter to one of
 * them. A quarter of the draws is uniform, the others are shared alike between the families. So the
 * probability of a row is at least 3 / (4 f) of what would suit any one of f families alone.
 */
export function mixture(families: readonly Float64Array[], random: Random): MixtureSampler {
  const n = families[0]!.length;
  const weighted = families
    .map((weights) => ({ weights, total: sumOf(weights) }))
    .filter(({ total }) => total > 0 && Number.isFinite(total));
  const share = weighted.length > 0 ? UNIFORM_SHARE : 1;
  const each = (1 - share) / Math.max(1, weighted.length);
  let samplers: readonly Sampler[] | null = null;
  const probability = (row: number) => {
    let sum = share / n;
    for (let f = 0; f < weighted.length; f++) {
      const { weights, total } = weighted[f]!;
      sum += (each * weights[row]!) / total;
    }
    return sum;
  };
  return {
    draw: () => {
      samplers ??= weighted.map(({ weights }) => proportional(weights, random));
      const family = samplers[Math.floor((random.uniform() - share) / each)];
      return family ? family.draw() : random.integer(n);
    },
    probability,
    spread: (count) => {
      const drawn: number[] = [];
      const offset = random.uniform();
      for (let row = 0, sum = 0; row < n; row++) {
        sum += count * probability(row);
        while (drawn.length < count && (drawn.length + offset < sum || row === n - 1)) {
          drawn.push(row);
        }
      }
      return drawn;
    },
  };
}

function sumOf(weights: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < weights.length; i++) sum += weights[i]!;
  return sum;
}

/** Rows whose weights are added up when one of them is drawn: the sums of all rows would take as much memory as the weights. */
const TOGETHER = 512;

/** Draws in proportion to weights; uniform if they are all 0. */
export function proportional(weights: Float64Array, random: Random): Sampler {
  const n = weights.length;
  const cumulative = new Float64Array(Math.ceil(n / TOGETHER));
  let total = 0;
  for (let b = 0; b < cumulative.length; b++) {
    const last = Math.min(n, (b + 1) * TOGETHER);
    let sum = 0;
    for (let i = b * TOGETHER; i < last; i++) sum += weights[i]!;
    total += sum;
    cumulative[b] = total;
  }
  if (!(total > 0 && Number.isFinite(total))) {
    return { draw: () => random.integer(n), probability: () => 1 / n };
  }
  return {
    draw: () => {
      const x = random.uniform() * total;
      const b = Math.min(upperBound(cumulative, x), cumulative.length - 1);
      return rowAt(weights, b * TOGETHER, x - (cumulative[b - 1] ?? 0));
    },
    probability: (row) => weights[row]! / total,
  };
}

/** Of the rows from `first` on that are added up together, the one in which the sum of the weights exceeds x: none of weight 0. */
function rowAt(weights: Float64Array, first: number, x: number): number {
  const end = Math.min(weights.length, first + TOGETHER);
  let [at, left] = [first, x];
  for (let i = first; i < end && left >= 0; i++) {
    if (weights[i]! > 0) at = i;
    left -= weights[i]!;
  }
  return at;
}

/** First index whose value exceeds x. */
function upperBound(sorted: Float64Array, x: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! > x) high = middle;
    else low = middle + 1;
  }
  return low;
}
