/**
 * How large is the error of a gradient that is a sum over rows? An estimate from a sample of them.
 *
 * A draw gives row i with probability p_i, and with it Delta_i, its exact contribution minus the one
 * that was used. Delta_i / p_i has the whole error as its mean, so the average of n draws estimates
 * the error *matrix* without bias; its scatter gives the standard error.
 */

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
  /** [variance of the estimate, draws] */
  readonly totals: Float64Array;
  /** The estimated error, shaped as the gradient. */
  readonly error: Float64Array;
}

export function makeErrorSums(size: number): ErrorSums {
  const doubles = (n: number) => new Float64Array(new SharedArrayBuffer(8 * n));
  return { totals: doubles(2), error: doubles(size) };
}

/**
 * Books one of `draws` draws. Both contributions lie on the same part of the tensor; without `used`
 * the first is their difference already.
 *
 * The variance of the mean is (sum |Delta / p|^2 - n |mean|^2) / (n (n - 1)). The second term is left
 * out: it needs a mean for every part of the rows that is sampled by itself, it matters only where
 * the scatter is small anyway, and without it the limit is on the safe side.
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
    const [x, xs] = rowOf(exact, a);
    const [y, ys] = used ? rowOf(used, a) : [0, xs];
    const row = exact.offset + a * xs.length;
    for (let b = 0; b < xs.length; b++) {
      const delta = (x * xs[b]! - y * ys[b]!) / probability;
      sums.error[row + b]! += delta / draws;
      square += delta * delta;
    }
  }
  sums.totals[0]! += square / (draws * Math.max(1, draws - 1));
  sums.totals[1]! += 1;
}

const rowsOf = (x: Contribution): number => ('rows' in x ? x.rows.length : x.u.length);

/** Row a of a contribution: a factor and a vector. */
const rowOf = (x: Contribution, a: number): readonly [number, Float64Array] =>
  'rows' in x ? [1, x.rows[a]!] : [x.u[a]!, x.v];

/** Two-sided 99 % of a normal distribution. */
const DEVIATIONS = 2.58;

/**
 * @param norm Frobenius norm of the gradient; 0 makes the error 0 (a gradient that vanishes does so
 *   exactly, like that of lora_A while lora_B is zero).
 * @param unseen relative error that rows by themselves cannot show; goes into `upper`.
 */
export function estimateError(
  parts: readonly ErrorSums[],
  norm: number,
  unseen: number,
): ErrorEstimate {
  const error = new Float64Array(parts[0]!.error.length);
  let variance = 0;
  let draws = 0;
  for (const part of parts) {
    for (let k = 0; k < error.length; k++) error[k]! += part.error[k]!;
    variance += part.totals[0]!;
    draws += part.totals[1]!;
  }
  const relative = norm > 0 ? frobenius(error) / norm : 0;
  const standardError = norm > 0 ? Math.sqrt(variance) / norm : 0;
  return {
    relative,
    upper: norm > 0 ? relative + DEVIATIONS * standardError + unseen : 0,
    standard_error: standardError,
    confidence: 0.99,
    rows_sampled: draws,
  };
}

export function frobenius(x: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k]! * x[k]!;
  return Math.sqrt(sum);
}
