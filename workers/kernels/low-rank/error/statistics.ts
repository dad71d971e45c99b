/** What independent unbiased estimates of a matrix say about it. */
import { deviationsOf, type MeanError, meanError } from '../../estimate/mean.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';

/** `count` independent estimates of a matrix of `size` numbers (count, size). */
export interface Estimates {
  readonly count: number;
  readonly values: Float64Array;
}

/** Their mean (size,), and how far it may be from what they estimate. */
export function meanOf(
  { checkpoint }: Pick<Arithmetic, 'checkpoint'>,
  { count, values }: Estimates,
  size: number,
): MeanError & { readonly mean: Float64Array } {
  const mean = new Float64Array(size);
  let [squares, largest, square] = [0, 0, 0];
  for (let k = 0; k < count; k++) {
    checkpoint();
    let sum = 0;
    for (let i = 0; i < size; i++) {
      const x = values[k * size + i];
      mean[i] += x / count;
      sum += x * x;
    }
    squares += sum;
    largest = Math.max(largest, sum);
  }
  for (const x of mean) square += x * x;
  return { mean, ...meanError(count, Math.sqrt(square), squares, Math.sqrt(largest)) };
}

/** How the mean of independent draws of E scatters, with the covariance C. */
export interface Spread {
  /** (tr C^2)^(1/2): no direction has more than that. */
  readonly spread: number;
  /** Variance of the products of each draw with the mean of all others, over their number, by which their mean varies; null: not known. */
  readonly along: number | null;
  /** Standard deviations to a 99 % limit. */
  readonly deviations: number;
}

/** Deviations beyond those of a normal distribution where one of the draws carries all: what carries most may then not be among them. */
export const UNEVEN_DEVIATIONS = 6;

/**
 * D_k.D_l of different draws varies by tr C_1^2 + 2 E'C_1 E with the covariance C_1 of one draw, and D_k.M_k, with M_k all that is
 * known of E without D_k, by E'C_1 E + tr C_1^2 / (n - 1): so both are known without C_1.
 *
 * @param mean of all draws. @param others what else is known of E, added to the mean.
 */
export function spreadOf(
  arithmetic: Arithmetic,
  draws: Estimates,
  mean: Float64Array,
  others: Float64Array | null,
): Spread {
  const { count: n, values } = draws;
  const size = mean.length;
  const scale = values.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
  const freedom = Math.max(1, n - 1);
  const deviations = deviationsOf(freedom);
  if (scale === 0) return { spread: 0, along: 0, deviations };
  const gram = gramMatrix(arithmetic, draws, size, scale);
  let [statistic, products, squares, fourth] = [0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    for (let l = 0; l < n; l++) {
      const product = gram[k * n + l];
      if (k === l) {
        squares += product;
        fourth += product * product;
      } else {
        statistic += product;
        products += product * product;
      }
    }
  }
  const pairs = Math.max(1, n * (n - 1));
  const variance = Math.max(0, products / pairs - (statistic / pairs) ** 2);
  // A direction for each number is the most that there can be.
  const least = squares / n / Math.sqrt(size);
  // The number of draws that would weigh as much if all were alike, as a share of n.
  const even = fourth > 0 ? (squares * squares) / (n * fourth) : 1;
  return {
    spread: (scale ** 2 * Math.max(Math.sqrt(variance), least)) / n,
    along: varianceAlong(arithmetic, draws, mean, others) / n,
    deviations: deviations + UNEVEN_DEVIATIONS * (1 - even),
  };
}

function varianceAlong(
  { checkpoint }: Pick<Arithmetic, 'checkpoint'>,
  { count: n, values }: Estimates,
  mean: Float64Array,
  others: Float64Array | null,
): number {
  const products = Float64Array.from({ length: n }, (_, k) => {
    checkpoint();
    let [ofMean, ofOthers, square] = [0, 0, 0];
    for (let i = 0, at = k * mean.length; i < mean.length; i++, at++) {
      const x = values[at];
      ofMean += x * mean[i];
      square += x * x;
      if (others) ofOthers += x * others[i];
    }
    return (n * ofMean - square) / Math.max(1, n - 1) + ofOthers;
  });
  const average = products.reduce((a, b) => a + b, 0) / n;
  return products.reduce((sum, x) => sum + (x - average) ** 2, 0) / Math.max(1, n - 1);
}

/** All products of the estimates over `scale` (count, count). */
function gramMatrix(
  arithmetic: Arithmetic,
  { count: n, values }: Estimates,
  size: number,
  scale: number,
): Float64Array {
  const gram = new Float64Array(n * n);
  const mark = arithmetic.mark();
  const width = Math.min(size, 1024);
  const part = arithmetic.array(n * width);
  const transposed = arithmetic.array(width * n);
  const product = arithmetic.array(n * n);
  for (let from = 0; from < size; from += width) {
    const columns = Math.min(width, size - from);
    for (let k = 0; k < n; k++) {
      for (let i = 0; i < columns; i++) {
        part[k * columns + i] = values[k * size + from + i] / scale;
      }
    }
    arithmetic.transpose(n, columns, part, transposed);
    arithmetic.gemm(n, n, columns, part, transposed, product);
    for (let i = 0; i < n * n; i++) gram[i] += product[i];
  }
  arithmetic.release(mark);
  return gram;
}
