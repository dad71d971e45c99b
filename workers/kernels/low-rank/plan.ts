/** The plan of a low-rank run: features and outliers of every head, predicted error and cost. */
import type { AttentionLayer, AttentionProblem } from '../../../src/lora/problem.js';
import type { Job } from '../job.js';
import { type ComposedNorms, largestNorms, ZERO_NORMS } from '../norms.js';
import type { Real } from './arithmetic.js';
import { crossPairs, draftPlan, openScan, putAside } from './basis.js';
import { type Draws, headCost, type Rates, samplingFlops } from './cost.js';
import { CROSS_ERROR } from './cross.js';
import { fullWidth, type Head, splitHeads } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { Random } from './random.js';
import { BLOCK } from './rows.js';
import { canDrawTail, drawTail, TAIL_GROUPS, TAIL_LISTED } from './tail.js';
import type { LowRankTask } from './task.js';
import { ALWAYS_TRIED, FEATURE_STEPS, isUneven, type Trial, type TrialRow } from './trial.js';
import { joinLongest, type LongestRows, type LongRows, longestOverMean } from './trial-sample.js';

export interface PlanOptions {
  /** Relative error that the upper limit of the estimate shall not exceed. */
  readonly tolerance: number;
  /** Use this number of features, whatever the error. */
  readonly features?: number;
  /** Treat no row exactly, whatever the error: to see what the outliers are worth. */
  readonly withoutOutliers?: boolean;
  readonly seed: number;
  readonly rates: Rates;
  /** The plan is for a run that answers them, too. */
  readonly inputGradients?: boolean;
}

export interface LowRankPlan {
  readonly heads: readonly Head[];
  readonly headPlans: readonly HeadPlan[];
  /** Query rows and features beyond those used that the error estimate draws. */
  readonly sampledRows: number;
  readonly sampledFeatures: number;
  /** The largest over the heads. */
  readonly features: number;
  readonly maxDegree: number;
  /** Sums over the heads. */
  readonly outlierQueries: number;
  readonly outlierKeys: number;
  readonly flops: number;
  readonly exactFlops: number;
  /** Expected upper limit of the relative error. */
  readonly predictedError: number;
  /** Whether the prediction meets the tolerance. */
  readonly meetsTolerance: boolean;
  /** Length from which low-rank is faster, at this share of outliers; null: never. */
  readonly breakEvenLength: number | null;
  /** Norms of the composed matrices, which decide on the theoretical threshold. */
  readonly norms: ComposedNorms;
  /** On one thread of this machine. */
  readonly seconds: { readonly lowRank: number; readonly exact: number };
}

/** Shares of the rows that may be put aside, and the one that the basis is then made without. */
const OUTLIER_SHARES = [1 / 512, 1 / 128, 1 / 64, 1 / 32] as const;
const WITHOUT = 1 / 128;
/** Bytes that the rows put aside may take in a worker. */
const OUTLIER_BYTES = 48 * 2 ** 20;
/** The shell behind the features, from which the certificate takes its operator norm. */
export const SHELL = 128;

interface Choice {
  readonly trial: Trial;
  readonly share: number;
  readonly m: number;
  /** Of the rows of the trial, and upper limit to expect of the estimate. */
  readonly rowError: number;
  readonly error: number;
  readonly seconds: number;
}

export function* planLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
): Job<LowRankPlan, LowRankTask> {
  const heads = splitHeads(problem, options.inputGradients);
  const steps = stepsToTry(heads[0], options);
  const listed = (Math.ceil(steps[steps.length - 1] / TAIL_LISTED) + 1) * TAIL_LISTED;
  // With an error that small the fewest sampled rows will do, and more features only cost more.
  const rowsPerItem = SAMPLED_ROWS[0] / problem.dims.batch;
  const enough = options.tolerance / noise(heads[0].queryLength, rowsPerItem);
  const { longest, heavyTailed } = yield* longestOfHeads(heads);
  const attempt = (wanting: readonly number[], shares: readonly number[], without: number) =>
    wanting.map((h) => ({
      kernel: 'low_rank' as const,
      step: 'trial' as const,
      head: heads[h],
      request: { shares, without, listed, steps, enough, longest: longest[h], seed: options.seed },
    }));
  const all = heads.map((_, h) => h);
  // Trials are few and long: the norms, which need no basis, keep the other workers busy, and so do trials
  // with outliers where they will be wanted.
  const likely = all.filter((h) => heavyTailed[h]);
  const results = yield {
    name: 'trial',
    tasks: [
      ...attempt(all, [0], 0),
      ...attempt(likely, OUTLIER_SHARES, WITHOUT),
      ...heads.flatMap(normTasks),
    ],
  };
  const trials = results.slice(0, heads.length) as Trial[][];
  const early = results.slice(heads.length, heads.length + likely.length) as Trial[][];
  const norms = results.slice(heads.length + likely.length) as ComposedNorms[];
  const uneven = all.filter((h) => {
    const [{ rows }] = trials[h];
    return isUneven(heads[h], rows[rows.length - 1]);
  });
  const missing = uneven.filter((h) => !heavyTailed[h]);
  if (missing.length > 0) {
    const tasks = attempt(missing, OUTLIER_SHARES, WITHOUT);
    const late = (yield { name: 'trial', tasks }) as Trial[][];
    for (const [i, h] of missing.entries()) trials[h].push(...late[i]);
  }
  for (const [i, h] of likely.entries()) if (uneven.includes(h)) trials[h].push(...early[i]);
  const allowed = options.withoutOutliers ? trials.map(([none]) => [none]) : trials;
  const { choices, sampledRows, sampledFeatures } = chooseAll(
    heads,
    allowed,
    problem.dims.batch,
    options,
  );
  const drafts = heads.map((head, h) =>
    draftPlan(head, choices[h].trial.basis, choices[h].m, SHELL),
  );
  const scans = heads.map((head) => openScan(head));
  yield {
    name: 'scan',
    tasks: heads.flatMap((head, h) =>
      cut(Math.max(head.queryLength, head.keyLength)).map((segment) => ({
        kernel: 'low_rank' as const,
        step: 'scan' as const,
        head,
        plan: drafts[h],
        segment,
        scan: scans[h],
      })),
    ),
  };
  const headPlans = heads.map((head, h) => {
    const { share } = choices[h];
    const plan = putAside(
      head,
      drafts[h],
      scans[h],
      outlierCount(head, head.queryLength, share),
      outlierCount(head, head.keyLength, share),
    );
    // Nothing that the features were chosen by is drawn again.
    const random = new Random(options.seed ^ (0x7a11 + h));
    const { basis, tailWeights } = choices[h].trial;
    return {
      ...plan,
      tail: drawTail(basis.features, tailWeights, plan.m, sampledFeatures, random),
    };
  });
  const sampled = { sampledRows, sampledFeatures };
  return {
    ...summary(heads, headPlans, choices, sampled, problem.dims.batch, options),
    norms: norms.reduce(largestNorms, ZERO_NORMS),
  };
}

function normTasks(head: Head) {
  return cut(Math.max(head.queryLength, head.keyLength)).map((segment) => ({
    kernel: 'low_rank' as const,
    step: 'norms' as const,
    head,
    segment,
  }));
}

/** Square of the longest row over the mean one, from which on trials with outliers are made without asking. */
const HEAVY_TAIL = 4;

/**
 * The longest rows of the inputs of every head, and whether they are much longer than others; heads of one
 * batch item share theirs.
 */
function* longestOfHeads(
  heads: readonly Head[],
): Job<{ longest: LongestRows[]; heavyTailed: boolean[] }, LowRankTask> {
  const inputs = new Map<string, { rows: Real; width: number; length: number }>();
  const keyOf = (head: Head, side: 'query' | 'key') => `${side} ${head.batch}`;
  for (const head of heads) {
    for (const side of ['query', 'key'] as const) {
      const { rows, effective } = head[side];
      const length = side === 'query' ? head.queryLength : head.keyLength;
      inputs.set(keyOf(head, side), { rows, width: effective.inputs, length });
    }
  }
  const tasks = [...inputs].flatMap(([key, { rows, width, length }]) =>
    cut(length).map((segment) => ({ key, rows, width, segment })),
  );
  const found = (yield {
    name: 'longest',
    tasks: tasks.map(({ key: _, ...rest }) => ({
      kernel: 'low_rank' as const,
      step: 'longest' as const,
      ...rest,
    })),
  }) as LongRows[];
  const joined = new Map(
    Array.from(inputs, ([key, { length }]) => {
      const parts = found.filter((_, i) => tasks[i].key === key);
      const heavy = longestOverMean(parts, length) > HEAVY_TAIL;
      return [key, { rows: joinLongest(parts), heavy }];
    }),
  );
  const sides = heads.map((head) => ({
    query: joined.get(keyOf(head, 'query'))!,
    key: joined.get(keyOf(head, 'key'))!,
  }));
  return {
    longest: sides.map(({ query, key }) => ({ query: query.rows, key: key.rows })),
    heavyTailed: sides.map(({ query, key }) => query.heavy || key.heavy),
  };
}

/** Feature numbers with which a head is still cheaper than exact, a few where none is, and the next. */
function stepsToTry(head: Head, { features, rates }: PlanOptions): readonly number[] {
  if (features !== undefined) return [features];
  const { query, key } = fullWidth(head);
  const sides = Number(query) + Number(key);
  const paying = FEATURE_STEPS.filter((m) => {
    const pairs = sides * m * head.d * CROSS_SHARE;
    const { flops, exactFlops } = headCost(head, m, 0, 0, { rows: 0, features: 0 }, pairs);
    return m <= ALWAYS_TRIED || flops / rates.lowRank < exactFlops / rates.exact;
  });
  // One step more, towards which to interpolate.
  const steps = FEATURE_STEPS.slice(0, paying.length + 1);
  return steps.filter((m) => sides === 0 || m <= mostFullWidthFeatures(head.d, head.dv));
}

/** Share of the pairs of features and directions that a cross takes, before it is known. */
const CROSS_SHARE = 0.4;

/** Numbers in the sums of one side at full width: 64 MiB in float64. */
const WIDE_SUMS = 2 ** 23;

/** Features for which the sums of a head have room at full width. */
export function mostFullWidthFeatures(d: number, dv: number): number {
  return Math.floor(WIDE_SUMS / (d * dv));
}

function cut(length: number) {
  const step = 32 * BLOCK;
  return Array.from({ length: Math.ceil(length / step) }, (_, s) => ({
    from: s * step,
    to: Math.min(length, (s + 1) * step),
  }));
}

function outlierCount(head: Head, length: number, share: number): number {
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
 * Upper limit to expect of the estimate. Gradients of unrelated rows add up like noise, so does their
 * error; the square of the limit then exceeds that of the error in proportion to the rows that matter
 * over those that are drawn. Where features are drawn too, rows only tell what normalisation does.
 */
function predicted(
  { score, value, tail }: TrialRow,
  { rows, features }: Draws,
  { keyLength }: Head,
): number {
  return Math.max(
    ...[score, value].map((part) => {
      if (!Number.isFinite(part.error)) return part.error;
      const ofRows = (NOISE * part.rows) / rows;
      // Where few keys make the error, all features err alike.
      const alike = Math.max(1, EVEN_KEYS / (part.columns / keyLength));
      const ofFeatures = (TAIL_NOISE * alike * tail) / features;
      const square = features === 0 ? ofRows : part.normalisation * ofRows + ofFeatures;
      return part.error * Math.sqrt(1 + square);
    }),
  );
}

/**
 * (Upper limit over error)^2 - 1, over rows that matter / rows drawn, on data without structure: the median is
 * about 1, and with this value one run in ten exceeds the limit that was planned.
 */
const NOISE = 2.5;
/** The same over tailSize / features drawn. */
const TAIL_NOISE = 1.8;
/** Share of the keys that make the error, with which the drawn features are independent. */
const EVEN_KEYS = 0.3;

function noise(rows: number, rowsPerItem: number): number {
  return Math.sqrt(1 + (NOISE * rows) / rowsPerItem);
}

/** Rows that the estimate may draw, and the share of the work that more than the least may take. */
const SAMPLED_ROWS = [96, 192, 384, 768] as const;
const SAMPLING_SHARE = 0.2;
/** Features that it may draw. */
const SAMPLED_FEATURES = [0, 1, 2, 3, 4, 6, 8].map((perGroup) => perGroup * TAIL_GROUPS);
/** With a given number of features, what may be spent on error bars: the time over that without. */
const WORTH = 1.3;

/** The cheapest pair of features and outliers that is expected to meet the tolerance, else the best. */
function choose(head: Head, trials: readonly Trial[], options: PlanOptions, draws: Draws): Choice {
  const { tolerance, rates, features } = options;
  const allowance = fullWidth(head).scores ? CROSS_ERROR : 1;
  const all: Choice[] = trials.flatMap((trial) => {
    const { share } = trial;
    const nq = outlierCount(head, head.queryLength, share);
    const nk = outlierCount(head, head.keyLength, share);
    const tried = trial.rows.map((row) => ({
      m: row.features,
      rowError: Math.max(row.score.error, row.value.error),
      error: allowance * predicted(row, draws, head),
    }));
    const between = features === undefined ? interpolate(tried, tolerance) : [];
    return [...tried, ...between].map((row) => ({
      trial,
      share,
      ...row,
      seconds:
        headCost(head, row.m, nq, nk, draws, crossPairs(trial.basis, row.m)).flops / rates.lowRank,
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

/** Errors fall like a power of m: the m, a multiple of 8, at which they reach the tolerance, if it lies inside. */
function interpolate(tried: readonly Tried[], tolerance: number): Tried[] {
  const after = tried.findIndex(({ error }) => error <= tolerance);
  if (after < 1) return [];
  const [a, b] = [tried[after - 1], tried[after]];
  if (!Number.isFinite(a.error) || !(b.error > 0)) return [];
  const part = Math.log(a.error / tolerance) / Math.log(a.error / b.error);
  const m = 8 * Math.ceil((a.m * (b.m / a.m) ** part) / 8);
  if (m >= b.m) return [];
  const along = (x: number, y: number) => x * (y / x) ** (Math.log(m / a.m) / Math.log(b.m / a.m));
  return [{ m, rowError: along(a.rowError, b.rowError), error: along(a.error, b.error) }];
}

/** One choice for every head, with the draws that make the whole cheapest. */
function chooseAll(
  heads: readonly Head[],
  trials: readonly (readonly Trial[])[],
  batch: number,
  options: PlanOptions,
): { choices: readonly Choice[]; sampledRows: number; sampledFeatures: number } {
  const drawable = heads.every(canDrawTail);
  const features = drawable ? SAMPLED_FEATURES : SAMPLED_FEATURES.slice(0, 1);
  const candidates = SAMPLED_ROWS.flatMap((sampledRows) =>
    features.map((sampledFeatures) => {
      const draws = { rows: sampledRows / batch, features: sampledFeatures };
      const choices = heads.map((head, h) => choose(head, trials[h], options, draws));
      const seconds = choices.reduce((sum, c) => sum + c.seconds, 0);
      const sampling = heads.reduce((sum, head) => sum + samplingFlops(head, draws.rows), 0);
      return {
        choices,
        sampledRows,
        sampledFeatures,
        seconds,
        error: Math.max(...choices.map((c) => c.error)),
        modest:
          sampledRows === SAMPLED_ROWS[0] ||
          sampling / options.rates.lowRank <= SAMPLING_SHARE * seconds,
      };
    }),
  ).filter((c) => c.modest);
  const least = Math.min(...candidates.map((c) => c.seconds));
  const fit =
    options.features === undefined ? candidates.filter((c) => c.error <= options.tolerance) : [];
  if (fit.length > 0) return fit.reduce((a, b) => (b.seconds < a.seconds ? b : a));
  const worth =
    options.features === undefined
      ? candidates
      : candidates.filter((c) => c.seconds <= WORTH * least);
  return worth.reduce((a, b) => (b.error < a.error ? b : a));
}

function summary(
  heads: readonly Head[],
  headPlans: readonly HeadPlan[],
  choices: readonly Choice[],
  sampled: Pick<LowRankPlan, 'sampledRows' | 'sampledFeatures'>,
  batch: number,
  { tolerance, rates }: PlanOptions,
): Omit<LowRankPlan, 'norms'> {
  const costs = heads.map((head, h) => {
    const { m, outlierQueries, outlierKeys } = headPlans[h];
    const { right, left } = headPlans[h].cross;
    const pairs = (right?.pairs ?? 0) + (left?.pairs ?? 0);
    const draws = { rows: sampled.sampledRows / batch, features: sampled.sampledFeatures };
    return headCost(head, m, outlierQueries.length, outlierKeys.length, draws, pairs);
  });
  const total = (of: (cost: (typeof costs)[number]) => number) =>
    costs.reduce((sum, cost) => sum + of(cost), 0);
  const saved = total((c) => c.exact) / rates.exact - total((c) => c.quadratic) / rates.lowRank;
  const predictedError = Math.max(...choices.map((c) => c.error));
  const degree = (plan: HeadPlan) =>
    plan.features.degree.subarray(0, plan.m).reduce((a, b) => Math.max(a, b), 0);
  return {
    heads,
    headPlans,
    ...sampled,
    features: Math.max(...headPlans.map((plan) => plan.m)),
    maxDegree: Math.max(...headPlans.map(degree)),
    outlierQueries: headPlans.reduce((n, plan) => n + plan.outlierQueries.length, 0),
    outlierKeys: headPlans.reduce((n, plan) => n + plan.outlierKeys.length, 0),
    flops: total((c) => c.flops),
    exactFlops: total((c) => c.exactFlops),
    predictedError,
    meetsTolerance: predictedError <= tolerance,
    breakEvenLength: saved > 0 ? Math.ceil(total((c) => c.linear) / rates.lowRank / saved) : null,
    seconds: {
      lowRank: total((c) => c.flops) / rates.lowRank,
      exact: total((c) => c.exactFlops) / rates.exact,
    },
  };
}
