/**
 * How large is the error of a gradient that is a sum over rows? An estimate from a sample of them.
 *
 * A draw gives row i with probability p_i, and with it Delta_i, its exact contribution minus the one
 * that was used. Delta_i / p_i has the whole error as its mean, so the average of n draws estimates
 * the error *matrix* without bias; its scatter gives the standard error (mean.ts).
 */
import type { TensorData } from '../../tensor/tensor.js';
import type { InputPasses } from './input-passes.js';
import { deviationsOf, LOG_CONFIDENCE } from './mean.js';

/** What m rows contribute to a gradient: row k u_k v_k^T, on part of the tensor from element `offsets[k]` on. */
export interface RankOnes {
  /** (m, a) and (m, b), for parts (a, b) of the tensor. */
  readonly u: Float64Array;
  readonly v: Float64Array;
  readonly offsets: readonly number[];
}

/** A row that was drawn. */
export interface Drawn {
  /** In one draw. */
  readonly probability: number;
}

/** What the answer shows; all but the last two relative to the Frobenius norm of the gradient. */
export interface ErrorEstimate {
  /** Norm of the estimated error. */
  readonly relative: number;
  /** Exceeds the norm of the error with the stated confidence. */
  readonly upper: number;
  readonly standard_error: number;
  readonly confidence: 0.99;
  readonly rows_sampled: number;
}

/** Sums over draws for one gradient tensor. Those of several threads add up. */
export interface ErrorSums {
  /** [variance of the estimate, independent draws, rows, largest |Delta / p| / n] */
  readonly totals: Float64Array;
  /** The estimated error, shaped as the gradient. */
  readonly error: Float64Array;
}

const TOTALS = 4;

/** Zeroed, in one block of shared memory. @param sizes by tensor. */
export function makeErrorSums(
  sizes: readonly (readonly [name: string, size: number])[],
): Record<string, ErrorSums> {
  const all = sizes.reduce((sum, [, size]) => sum + TOTALS + size, 0);
  const memory = new Float64Array(new SharedArrayBuffer(8 * all));
  let used = 0;
  const take = (length: number) => {
    used += length;
    return memory.subarray(used - length, used);
  };
  return Object.fromEntries(
    sizes.map(([name, size]) => [name, { totals: take(TOTALS), error: take(size) }]),
  );
}

/**
 * Books rows, each as one of `draws` draws: its exact contribution minus the one that was used, in a form where nothing
 * large cancels.
 *
 *     Delta = u v^T - u' v'^T = (u - u') v^T + u' (v - v')^T
 *     |Delta|^2 = |u - u'|^2 |v|^2 + 2 (u - u').u' v.(v - v') + |u'|^2 |v - v'|^2
 *
 * @param rows numbers of those that are booked here.
 */
export function addDraws(
  sums: ErrorSums,
  rows: readonly number[],
  drawn: readonly Drawn[],
  exact: RankOnes,
  used: RankOnes,
  draws: number,
  passes: InputPasses,
): void {
  const m = drawn.length;
  const [a, b] = [exact.u.length / m, exact.v.length / m];
  for (const offset of new Set(rows.map((k) => exact.offsets[k]!))) {
    const mine = rows.filter((k) => exact.offsets[k] === offset);
    const n = 2 * mine.length;
    // The sum of all Delta / p as one product of (a, n) and (n, b).
    const [left, right] = [new Float64Array(a * n), new Float64Array(n * b)];
    for (const [i, k] of mine.entries()) {
      const { probability } = drawn[k]!;
      const over = 1 / (probability * draws);
      let [uu, du, dd] = [0, 0, 0];
      for (let c = 0, at = k * a; c < a; c++, at++) {
        const y = used.u[at]!;
        const delta = exact.u[at]! - y;
        left[c * n + 2 * i] = over * delta;
        left[c * n + 2 * i + 1] = over * y;
        uu += y * y;
        du += delta * y;
        dd += delta * delta;
      }
      let [vv, vd, ee] = [0, 0, 0];
      for (let c = 0, at = k * b; c < b; c++, at++) {
        const x = exact.v[at]!;
        const delta = x - used.v[at]!;
        right[2 * i * b + c] = x;
        right[(2 * i + 1) * b + c] = delta;
        vv += x * x;
        vd += x * delta;
        ee += delta * delta;
      }
      const square = Math.max(0, dd * vv + 2 * du * vd + uu * ee);
      book(sums, square / probability ** 2, draws, 1);
    }
    const sum = passes.combine(right, n, left);
    for (let k = 0; k < sum.length; k++) sums.error[offset + k]! += sum[k]!;
  }
}

/** Books a difference that is no rank one, part of the tensor from element `offset` on, as one of `draws` draws. */
export function addDifference(
  sums: ErrorSums,
  difference: Float64Array,
  offset: number,
  { probability }: Drawn,
  draws: number,
): void {
  let square = 0;
  for (let k = 0; k < difference.length; k++) {
    const delta = difference[k]! / probability;
    sums.error[offset + k]! += delta / draws;
    square += delta * delta;
  }
  book(sums, square, draws, 1);
}

/** Books the mean of draws that depend on each other as one of `draws` draws. */
export function addCluster(sums: ErrorSums, { error, totals }: ErrorSums, draws: number): void {
  for (let k = 0; k < error.length; k++) sums.error[k]! += error[k]! / draws;
  book(sums, frobenius(error) ** 2, draws, totals[2]!);
}

/**
 * The variance of the mean is (sum |Delta / p|^2 - n |mean|^2) / (n (n - 1)). The second term is left
 * out: it needs a mean for every part of the rows that is sampled by itself, it matters only where
 * the scatter is small anyway, and without it the limit is on the safe side.
 */
function book({ totals }: ErrorSums, square: number, draws: number, rows: number): void {
  totals[0]! += square / (draws * Math.max(1, draws - 1));
  totals[1]! += 1;
  totals[2]! += rows;
  totals[3] = Math.max(totals[3]!, Math.sqrt(square) / draws);
}

/** What is known of a gradient beside the sampled rows. */
interface KnownError {
  /** Frobenius norm of the gradient. */
  readonly norm: number;
  /** Relative error that rows by themselves cannot show; goes into `upper`. */
  readonly rounding: number;
  /**
   * Whether a gradient of norm 0 is 0 exactly, like that of lora_A while lora_B is. One that came out as 0 otherwise
   * underflowed, and is off by all of what it should be.
   */
  readonly vanishes: boolean;
}

export function estimateError(
  parts: readonly ErrorSums[],
  { norm, rounding, vanishes }: KnownError,
): ErrorEstimate {
  const error = new Float64Array(parts[0]!.error.length);
  let [variance, draws, rows, largest] = [0, 0, 0, 0];
  for (const part of parts) {
    for (let k = 0; k < error.length; k++) error[k]! += part.error[k]!;
    variance += part.totals[0]!;
    draws += part.totals[1]!;
    rows += part.totals[2]!;
    largest = Math.max(largest, part.totals[3]!);
  }
  const figures = { confidence: 0.99, rows_sampled: rows } as const;
  if (!(norm > 0)) {
    const off = vanishes ? 0 : 1;
    return { relative: off, upper: off, standard_error: 0, ...figures };
  }
  const relative = frobenius(error) / norm;
  const standardError = Math.sqrt(variance) / norm;
  const deviation = deviationsOf(Math.max(1, draws - 1)) * standardError;
  return {
    relative,
    upper: relative + deviation + (LOG_CONFIDENCE * largest) / norm + rounding,
    standard_error: standardError,
    ...figures,
  };
}

export function frobenius(x: TensorData): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k]! * x[k]!;
  return Math.sqrt(sum);
}
