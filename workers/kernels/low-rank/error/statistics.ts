/**
 * What independent unbiased estimates of an error matrix say about its norm.
 *
 * E = sum over strata s of E_s, and of each E_s there are n_s independent unbiased estimates D_k (size,).
 * |mean|^2 is |E|^2 plus the noise of the mean, which for a small sample is most of it. The sum U over pairs of strata
 * of the mean of D_k.D_l, over k != l within a stratum, has no such bias. Its variance by Hoeffding's
 * decomposition,
 *
 *     sum_s 4 zeta_1(s) / n_s  +  sum_s 2 zeta_2(s, s) / (n_s (n_s - 1))  +  sum_(s < t) 4 zeta_2(s, t) / (n_s n_t)
 *
 * zeta_1 of the means over all others and zeta_2 of the products, is taken from the same products, and
 * |E|^2 <= U + c deviations. The plainer |mean| + 2.58 standard errors holds as well: the smaller of the
 * two is the upper limit.
 */
import type { Arithmetic } from '../arithmetic/arithmetic.js';

export interface Stratum {
  readonly count: number;
  /** (count, size) */
  readonly estimates: Float64Array;
}

export interface TensorEstimate {
  /** Frobenius norm of the estimated error matrix. */
  readonly norm: number;
  /** Its standard error: root mean square distance from the error matrix itself. */
  readonly standardError: number;
  /** Of the square of the norm: how far the upper limit is above what was found. */
  readonly deviation: number;
  /** Limits of the norm of the error matrix: what it exceeds, and at 99 % what it does not. */
  readonly lower: number;
  readonly upper: number;
  /** The estimated error matrix, to be added by those who want no bias. */
  readonly mean: Float64Array;
}

/**
 * Standard deviations between the U-statistic and the upper limit: of a normal distribution when all draws
 * weigh alike, and more of them the fewer draws carry the sum, since what carries most of the error may
 * then not be among them.
 */
const DEVIATIONS = 2.58;
const UNEVEN_DEVIATIONS = 6;
/** Draws from which a variance can be had. */
const FEWEST = 3;

export function statistics(
  arithmetic: Arithmetic,
  all: readonly Stratum[],
  size: number,
): TensorEstimate {
  const mean = new Float64Array(size);
  const strata = all.filter(({ estimates }) => estimates.some((x) => x !== 0));
  if (strata.length === 0 || strata.some(({ count }) => count < FEWEST)) {
    return { norm: 0, standardError: 0, deviation: 0, lower: 0, upper: 0, mean };
  }
  let largest = 0;
  for (const { count, estimates } of strata) {
    for (let k = 0; k < count; k++) {
      for (let i = 0; i < size; i++) {
        const x = estimates[k * size + i];
        largest = Math.max(largest, Math.abs(x));
        mean[i] += x / count;
      }
    }
  }
  const gram = gramMatrix(arithmetic, strata, size, largest);
  const parts = strata.map((_, s) => partOf(strata, gram, s));
  const statistic = parts.reduce((sum, { statistic: u }) => sum + u, 0);
  // Every stratum with as many deviations as it is uneven.
  const deviation = Math.sqrt(
    parts.reduce((sum, { variance, deviations }) => sum + deviations ** 2 * variance, 0),
  );
  let meanSquare = 0;
  for (const x of mean) meanSquare += (x / largest) ** 2;
  const norm = Math.sqrt(meanSquare);
  const standardError = Math.sqrt(parts.reduce((sum, { meanVariance: v }) => sum + v, 0));
  const unbiased = Math.sqrt(Math.max(0, statistic) + deviation);
  return {
    norm: norm * largest,
    standardError: standardError * largest,
    deviation: deviation * largest ** 2,
    lower: Math.sqrt(Math.max(0, statistic - deviation)) * largest,
    upper: Math.min(unbiased, norm + 2.58 * standardError) * largest,
    mean,
  };
}

/** What stratum s adds to U and to its variance, half of what it shares with the others. */
function partOf(strata: readonly Stratum[], gram: Gram, s: number) {
  const n = strata[s].count;
  let [squares, fourth, total] = [0, 0, 0];
  const means = new Float64Array(n);
  let statistic = 0;
  let variance = 0;
  /** Of the means of a draw with those of the other draws. */
  let noise = 0;
  strata.forEach(({ count }, t) => {
    let [sum, sumSquares] = [0, 0];
    const others = s === t ? n - 1 : count;
    for (let k = 0; k < n; k++) {
      for (let l = 0; l < count; l++) {
        const product = gram.at(s, k, t, l);
        if (s === t) total += product;
        if (s === t && k === l) {
          squares += product;
          fourth += product * product;
          continue;
        }
        means[k] += product / others;
        sum += product;
        sumSquares += product * product;
      }
    }
    const pairs = n * others;
    statistic += sum / pairs;
    const zeta2 = Math.max(0, sumSquares / pairs - (sum / pairs) ** 2);
    noise += zeta2 / others;
    variance += (2 * zeta2) / pairs;
  });
  let spread = 0;
  for (const x of means) spread += (x - statistic) ** 2;
  const zeta1 = Math.max(0, spread / (n - 1) - noise);
  variance += (4 * zeta1) / n;
  // The number of draws that would weigh as much if all were alike, as a share of n.
  const even = fourth > 0 ? (squares * squares) / (n * fourth) : 1;
  return {
    statistic,
    variance,
    deviations: DEVIATIONS + UNEVEN_DEVIATIONS * (1 - even),
    meanVariance: Math.max(0, squares / n - total / (n * n)) / (n - 1),
  };
}

interface Gram {
  /** D_k.D_l of draw k of stratum s and draw l of stratum t. */
  at(s: number, k: number, t: number, l: number): number;
}

/** All products of the estimates over `scale`. */
function gramMatrix(
  arithmetic: Arithmetic,
  strata: readonly Stratum[],
  size: number,
  scale: number,
): Gram {
  const first: number[] = [];
  let n = 0;
  for (const { count } of strata) {
    first.push(n);
    n += count;
  }
  const gram = new Float64Array(n * n);
  const mark = arithmetic.mark();
  const width = Math.min(size, 1024);
  const part = arithmetic.array(n * width);
  const turned = arithmetic.array(width * n);
  const product = arithmetic.array(n * n);
  for (let from = 0; from < size; from += width) {
    const columns = Math.min(width, size - from);
    strata.forEach(({ count, estimates }, s) => {
      for (let k = 0; k < count; k++) {
        const to = (first[s] + k) * columns;
        for (let i = 0; i < columns; i++) part[to + i] = estimates[k * size + from + i] / scale;
      }
    });
    arithmetic.transpose(n, columns, part, turned);
    arithmetic.gemm(n, n, columns, part, turned, product);
    for (let i = 0; i < n * n; i++) gram[i] += product[i];
  }
  arithmetic.release(mark);
  return { at: (s, k, t, l) => gram[(first[s] + k) * n + first[t] + l] };
}
