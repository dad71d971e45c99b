/** The choice among what a trial has seen: features, outliers and draws, by expected error and cost. */

import { deviationsOf, meanError } from '../../estimate/mean.js';
import { canDrawFeatures } from '../error/drawn-features/draw.js';
import { UNEVEN_DEVIATIONS } from '../error/statistics.js';
import { distanceOf, normOf } from '../error/tensor-estimate.js';
import { CROSS_ERROR } from '../features/hyperbolic-cross.js';
import { BLOCK } from '../head/block.js';
import { fullWidth, type Head } from '../head/head.js';
import { DRAWN_GROUPS } from '../head/plan.js';
import { balanceSample, crossPairs } from './basis.js';
import { type Draws, headCost, outputRows, samplingFlops } from './cost.js';
import type { PlanOptions } from './plan-options.js';
import type { Enough, Judged, Trial, TrialRow } from './trial/trial.js';

export interface Choice<T extends Judged = Trial> {
  readonly trial: T;
  readonly share: number;
  readonly m: number;
  /** Error on the rows of the trial, and the limit to expect of the estimate. */
  readonly rowError: number;
  readonly error: number;
  readonly seconds: number;
}

/** Bytes that the rows put aside may take in a worker. */
const OUTLIER_BYTES = 48 * 2 ** 20;

export function outlierCount(head: Head, length: number, share: number): number {
  const { key, value, query, d, dv } = head;
  const bytes =
    4 *
    (key.effective.inputs +
      value.effective.inputs +
      query.effective.inputs +
      4 * (d + dv) +
      4 * BLOCK);
  return Math.min(Math.ceil(share * length), Math.floor(OUTLIER_BYTES / bytes));
}

/**
 * Upper limit to expect of the estimate (estimate.ts), over the error. Gradients of unrelated rows add up like noise, so
 * does their error; the square of the standard error is then that of the error times the rows that matter over
 * those that are drawn. Where features are drawn too, rows only tell what these leave to them. A limit allows for rounding, too.
 */
function predicted(
  { score, value, drawnFeatures }: TrialRow,
  { rows, features }: Draws,
  head: Head,
  directions: number,
  { correction = false, outputOnly }: PlanOptions,
): number {
  const { keyLength, queryLength } = head;
  if (outputOnly) return OUTPUT_LIMIT * value.error;
  return Math.max(
    ...[score, value].map(({ rounding, ...part }) => {
      if (!Number.isFinite(part.error) || rows >= queryLength) return part.error + rounding;
      const ofRows = part.rows / rows;
      if (features === 0) return part.error * limitOver(ofRows, rows, correction) + rounding;
      // Where few keys make the error, all features err alike.
      const alike = Math.max(1, EVEN_KEYS / (part.columns / keyLength));
      const ofFeatures = (SIGNS * alike * drawnFeatures) / features;
      const unbalanced = Math.max(part.normalisation, 1 / balanceSample(keyLength));
      const normalisation = unbalanced * ofRows;
      const scatter = { ofFeatures, features, ofRows: normalisation, rows, directions };
      return part.error * mixtureLimit(scatter, correction) + rounding;
    }),
  );
}

/** Variances of the means of so many drawn rows and features, and the number of their directions. */
interface MixtureScatter extends Draws {
  readonly ofRows: number;
  readonly ofFeatures: number;
  readonly directions: number;
}

/** The same where features are drawn. */
function mixtureLimit(
  { ofFeatures, features, ofRows, rows, directions }: MixtureScatter,
  correction: boolean,
): number {
  const scatter = (variance: number, draws: number, even: number) => {
    const [spread, freedom] = [variance / Math.sqrt(directions), draws - 1];
    const deviations = deviationsOf(freedom) + UNEVEN_DEVIATIONS * (1 - even);
    // Of a draw and all others: most of what varies along their mean is the scatter of both.
    const along = spread ** 2 + variance / directions;
    return { variance, freedom, spread, along, deviations, unseen: 0 };
  };
  const { unseen } = meanError(rows, 0, rows, LARGEST_ROW * Math.sqrt(rows * ofRows));
  const even = 1 / (1 + 2 / directions + (UNEVEN_MIXTURES * DRAWN_GROUPS) / features);
  const scatters = {
    rows: { ...scatter(ofRows, rows, EVEN_ROWS), unseen },
    features: scatter(ofFeatures, DRAWN_GROUPS, even),
  };
  if (correction) return ROOM * distanceOf(scatters).limit;
  return MIXED_ROOM * normOf(Math.sqrt(1 + ofRows + ofFeatures), scatters).upper;
}

/**
 * Directions that the scatter of an estimate has, measured: 0.7 for each column of the least adapter and each direction of the
 * keys, these counted as (sum of sigma)^2 / sum of sigma^2.
 */
function directionsOf({ query, key, value }: Head, sigma: Float64Array): number {
  const ranks = [query.rank, key.rank, value.rank].filter((rank) => rank > 0);
  const [sum, squares] = sigma.reduce(([a, b], s) => [a + s, b + s * s], [0, 0]);
  return Math.max(1, 0.7 * Math.min(...ranks) * (squares > 0 ? sum ** 2 / squares : 1));
}

/** Measured: how unlike the squares of mixtures are, one in each group, beside what few directions make of them; and those of rows. */
const UNEVEN_MIXTURES = 0.15;
const EVEN_ROWS = 0.3;
/** The largest of the drawn rows over the root of their mean square. */
const LARGEST_ROW = 2.5;
/** Scatter of mixtures over that of signs which are independent, and not products. */
const SIGNS = 1.4;

/** The same for n rows alone; `variance` of their mean. */
function limitOver(variance: number, n: number, correction: boolean): number {
  const mean = correction ? 0 : Math.sqrt(1 + variance);
  return mean + ROOM * deviations(n) * Math.sqrt(variance);
}

/** Standard errors to the limit of the mean of n rows that weigh alike, with what none of them has seen. */
function deviations(n: number): number {
  const { deviation, unseen, standardError } = meanError(n, 0, n, 1);
  return (deviation + unseen) / standardError;
}

/**
 * The same for an output, whose rows are judged by themselves (row-error.ts): 1.4, and room for values that go with the keys, whose errors
 * add up; of 100 random layers 6 missed their tolerance with it, 12 with a third less, in as much time.
 */
const OUTPUT_LIMIT = 2.4;

/** How much a limit may come out above what is expected of it: one run in ten exceeds it. */
const ROOM = 1.15;
/** The same where the limit is of what is left of a mean after its scatter. */
const MIXED_ROOM = 1.3;
/** Share of the keys that make the error, with which the drawn features are independent. */
const EVEN_KEYS = 0.3;

export function enoughFor(
  { queryLength }: Head,
  { tolerance, correction, outputOnly }: PlanOptions,
  batch: number,
): Enough {
  const both = (enough: number) => ({ rows: enough, mixed: enough });
  if (outputOnly) return both(tolerance / OUTPUT_LIMIT);
  if (batch * queryLength <= WHOLE_ROWS) return both(tolerance);
  const [rows] = SAMPLED_ROWS;
  const ofRows = limitOver((queryLength * batch) / rows, rows, correction ?? false);
  return { rows: tolerance / ofRows, mixed: tolerance / Math.min(ofRows, MIXED_LIMIT) };
}

/** No limit of the fewest mixtures is further above the error. */
const MIXED_LIMIT = 16;

/** Inputs of so few rows are compared whole: that costs no more than a sample, and the error is known. */
const WHOLE_ROWS = 512;
/** Rows that the estimate may draw, and the share of the work that more than the least may take. */
const SAMPLED_ROWS = [96, 192, 384, 768] as const;
/** Fewer will do where features are drawn, too. */
const FEWER_ROWS = 64;
const SAMPLING_SHARE = 0.2;
/** Features that it may draw. */
export const SAMPLED_FEATURES = [0, 1, 2, 3, 4, 6, 8].map((perGroup) => perGroup * DRAWN_GROUPS);
/** With a given number of features, what may be spent on error bars: the time over that without. */
const WORTH = 1.3;

/** The cheapest pair of features and outliers that is expected to meet the tolerance, else the best. */
function choose<T extends Judged>(
  head: Head,
  trials: readonly T[],
  options: PlanOptions,
  draws: Draws,
): Choice<T> {
  const { tolerance, features } = options;
  const all: Choice<T>[] = trials.flatMap((trial) => {
    const tried = triedRows(head, trial, options, draws);
    const between =
      features === undefined ? interpolate(tried, trial.basis.features.weight, tolerance) : [];
    return [...tried, ...between].map((row) => ({
      trial,
      share: trial.share,
      ...row,
      seconds: secondsOf(head, trial, row.m, options, draws),
    }));
  });
  if (features !== undefined) {
    const least = Math.min(...all.map((c) => c.rowError));
    const wanted = Math.max(tolerance, 2 * least);
    // More outliers help a little nearly always: take the fewest that do most of the good.
    const good = all.filter((c) => c.rowError <= wanted).sort((a, b) => a.seconds - b.seconds);
    return { ...(good[0] ?? all[0]), m: features };
  }
  const fit = all.filter((c) => c.error <= tolerance).sort((a, b) => a.seconds - b.seconds);
  return fit[0] ?? all.sort((a, b) => a.error - b.error)[0];
}

type Tried = Pick<Choice, 'm' | 'rowError' | 'error'>;

/** The numbers of features that a trial has seen, with the errors to expect. */
export function triedRows(
  head: Head,
  trial: Judged,
  options: PlanOptions,
  draws: Draws,
): readonly Tried[] {
  const allowance = fullWidth(head).scores ? CROSS_ERROR : 1;
  const directions = directionsOf(head, trial.basis.features.sigma);
  return trial.rows.map((row) => ({
    m: row.features,
    rowError: Math.max(row.score.error, row.value.error),
    error: allowance * predicted(row, draws, head, directions, options),
  }));
}

/** Seconds of a head with m features on one thread. */
export function secondsOf(
  head: Head,
  { share, basis }: Judged,
  m: number,
  { rates }: PlanOptions,
  draws: Draws,
): number {
  const nq = outlierCount(head, head.queryLength, share);
  const nk = outlierCount(head, head.keyLength, share);
  return headCost(head, m, nq, nk, draws, crossPairs(basis, m)).flops / rates.lowRank;
}

/**
 * Between two numbers of features that were tried the square of an error falls by the squares of the weights of
 * those added: the smallest m, a multiple of 8, at which it reaches the tolerance, if it lies inside.
 */
function interpolate(tried: readonly Tried[], weight: Float64Array, tolerance: number): Tried[] {
  const after = tried.findIndex(({ error }) => error <= tolerance);
  if (after < 1) return [];
  const [a, b] = [tried[after - 1], tried[after]];
  if (!Number.isFinite(a.error)) return [];
  const squares = (from: number, to: number) =>
    weight.subarray(from, to).reduce((sum, w) => sum + w * w, 0);
  const all = squares(a.m, b.m);
  for (let m = 8 * Math.ceil((a.m + 1) / 8); m < b.m; m += 8) {
    const left = squares(m, b.m) / all;
    const along = (x: number, y: number) => Math.sqrt(y * y + left * Math.max(0, x * x - y * y));
    const error = along(a.error, b.error);
    if (error <= tolerance) return [{ m, rowError: along(a.rowError, b.rowError), error }];
  }
  return [];
}

/** One choice for every head, with the draws that make the whole cheapest. */
export function chooseAll<T extends Judged>(
  heads: readonly Head[],
  trials: readonly (readonly T[])[],
  batch: number,
  options: PlanOptions,
): { choices: readonly Choice<T>[]; sampledRows: number; sampledFeatures: number } {
  const drawable = heads.every(canDrawFeatures);
  const all = batch * heads[0].queryLength;
  const features = drawable && all > WHOLE_ROWS ? SAMPLED_FEATURES : SAMPLED_FEATURES.slice(0, 1);
  const rowsBeside = (sampledFeatures: number) => {
    if (options.outputOnly) return [batch * outputRows(heads.length)];
    if (all <= WHOLE_ROWS) return [all];
    // Where all rows are compared, nothing is left for features to tell.
    if (sampledFeatures > 0) return [FEWER_ROWS, ...SAMPLED_ROWS].filter((rows) => rows < all);
    return SAMPLED_ROWS;
  };
  const candidates = features.flatMap((sampledFeatures) =>
    rowsBeside(sampledFeatures).map((sampledRows) => {
      const draws = { rows: sampledRows / batch, features: sampledFeatures };
      const choices = heads.map((head, h) => choose(head, trials[h], options, draws));
      const seconds = choices.reduce((sum, c) => sum + c.seconds, 0);
      const sampling = heads.reduce((sum, head) => sum + samplingFlops(head, draws), 0);
      return {
        choices,
        sampledRows,
        sampledFeatures,
        seconds,
        error: Math.max(...choices.map((c) => c.error)),
        modest:
          sampledRows <= SAMPLED_ROWS[0] ||
          sampledRows === all ||
          options.outputOnly ||
          sampling / options.rates.lowRank <= SAMPLING_SHARE * seconds,
      };
    }),
  );
  const fit =
    options.features === undefined ? candidates.filter((c) => c.error <= options.tolerance) : [];
  if (fit.length > 0) return fit.reduce((a, b) => (b.seconds < a.seconds ? b : a));
  const modest = candidates.filter((c) => c.modest);
  const least = Math.min(...modest.map((c) => c.seconds));
  const worth =
    options.features === undefined ? modest : modest.filter((c) => c.seconds <= WORTH * least);
  return worth.reduce((a, b) => (b.error < a.error ? b : a));
}
