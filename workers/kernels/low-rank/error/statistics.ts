/** What independent unbiased estimates of a matrix say about the matrix and about its norm. */
import { DEVIATIONS, type MeanError, meanError } from '../../estimate/mean.js';
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

/**
 * Standard deviations between the U-statistic and the limit: of a normal distribution when all draws
 * weigh alike, and more of them the fewer draws carry the sum, since what carries most of it may then not
 * be among them.
 */
const UNEVEN_DEVIATIONS = 6;
/** Draws from which a variance can be had. */
const FEWEST = 3;

/** |E|^2 of a matrix E: an estimate without bias, its standard deviation, and how many of these lie below its limit. */
export interface SquareEstimate {
  readonly square: number;
  readonly deviation: number;
  readonly deviations: number;
}

/** 99 % limit of |E|. */
export const limitOfNorm = ({ square, deviation, deviations }: SquareEstimate): number =>
  Math.sqrt(Math.max(0, square) + deviations * deviation);

/**
 * The square of the norm of the matrix E that the draws D_k estimate. |mean|^2 is |E|^2 plus the noise of the mean,
 * which for a small sample is most of it. The mean U of D_k.D_l over k != l has no such bias, and its variance by
 * Hoeffding's decomposition,
 *
 *     4 zeta_1 / n  +  2 zeta_2 / (n (n - 1)),
 *
 * zeta_1 of the means over all others and zeta_2 of the products, is taken from the same products: with
 * 99 % confidence |E|^2 <= U + c deviations.
 */
export function squareOf(arithmetic: Arithmetic, draws: Estimates, size: number): SquareEstimate {
  const { count: n, values } = draws;
  if (n < FEWEST) return { square: Number.POSITIVE_INFINITY, deviation: 0, deviations: 0 };
  const scale = values.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
  if (scale === 0) return { square: 0, deviation: 0, deviations: 0 };
  const gram = gramMatrix(arithmetic, draws, size, scale);
  const means = new Float64Array(n);
  let [statistic, products, squares, fourth] = [0, 0, 0, 0];
  for (let k = 0; k < n; k++) {
    for (let l = 0; l < n; l++) {
      const product = gram[k * n + l];
      if (k === l) {
        squares += product;
        fourth += product * product;
        continue;
      }
      means[k] += product / (n - 1);
      statistic += product;
      products += product * product;
    }
  }
  const pairs = n * (n - 1);
  statistic /= pairs;
  const zeta2 = Math.max(0, products / pairs - statistic ** 2);
  let spread = 0;
  for (const x of means) spread += (x - statistic) ** 2;
  const zeta1 = Math.max(0, spread / (n - 1) - zeta2 / (n - 1));
  const variance = (4 * zeta1) / n + (2 * zeta2) / pairs;
  // The number of draws that would weigh as much if all were alike, as a share of n.
  const even = fourth > 0 ? (squares * squares) / (n * fourth) : 1;
  const deviation = scale ** 2 * Math.sqrt(variance);
  const deviations = DEVIATIONS + UNEVEN_DEVIATIONS * (1 - even);
  return { square: scale ** 2 * statistic, deviation, deviations };
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
