/**
 * How large is the error of a gradient that is a sum over rows? An estimate from a sample of them.
 *
 * A draw gives row i with probability p_i, and with it Delta_i, its exact contribution minus the one
 * that was used. Delta_i / p_i has the whole error as its mean, so the average of n draws estimates
 * the error *matrix* without bias; its scatter gives the standard error (mean.ts).
 */
import type { TensorData } from '../../tensor/tensor.js';
import { deviationsOf, LOG_CONFIDENCE } from './mean.js';

/** One row's contribution to a gradient: u v^T, on part of the tensor from element `offset` on. */
export interface RankOne {
  readonly u: Float64Array;
  readonly v: Float64Array;
  readonly offset: number;
}

/** The same where rotary positions leave no rank one: the rows of that part of the tensor. */
export interface Rows {
  readonly rows: readonly Float64Array[];
  readonly offset: number;
}

export type Contribution = RankOne | Rows;

/** Contributions of one row to all gradients, by name: 'q_proj.lora_A', ... */
export type RowContribution = ReadonlyMap<string, Contribution>;

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

/** Sums over draws for one gradient tensor, over shared memory. Those of several threads add up. */
export interface ErrorSums {
  /** [variance of the estimate, independent draws, rows, largest |Delta / p| / n] */
  readonly totals: Float64Array;
  /** The estimated error, shaped as the gradient. */
  readonly error: Float64Array;
}

export function makeErrorSums(size: number): ErrorSums {
  const doubles = (n: number) => new Float64Array(new SharedArrayBuffer(8 * n));
  return { totals: doubles(4), error: doubles(size) };
}

/**
 * Books one of `draws` draws. Both contributions lie on the same part of the tensor; without `used`
 * the first is their difference already.
 */
export function addDraw(
  sums: ErrorSums,
  exact: Contribution,
  used: Contribution | null,
  probability: number,
  draws: number,
): void {
  let square = 0;
  for (let a = 0; a < rowsOf(exact); a++) {
    const xs = vectorOf(exact, a);
    const ys = used ? vectorOf(used, a) : xs;
    const [x, y] = [factorOf(exact, a), used ? factorOf(used, a) : 0];
    const [over, share] = [1 / probability, 1 / draws];
    const row = exact.offset + a * xs.length;
    for (let b = 0; b < xs.length; b++) {
      const delta = over * (x * xs[b]! - y * ys[b]!);
      sums.error[row + b]! += share * delta;
      square += delta * delta;
    }
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

const rowsOf = (x: Contribution): number => ('rows' in x ? x.rows.length : x.u.length);

/** Row a of a contribution: a factor times a vector. */
const factorOf = (x: Contribution, a: number): number => ('rows' in x ? 1 : x.u[a]!);
const vectorOf = (x: Contribution, a: number): Float64Array => ('rows' in x ? x.rows[a]! : x.v);

/** What is known of a gradient beside the sampled rows. */
export interface KnownError {
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
