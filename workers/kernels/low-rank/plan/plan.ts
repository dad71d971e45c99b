/** The plan of a low-rank run: features and outliers of every head, predicted error and cost. */

import type { Job } from '../../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { type ComposedNorms, largestNorms, ZERO_NORMS } from '../../norms.js';
import { Random } from '../../random.js';
import { drawTail, TAIL_LISTED } from '../error/drawn-features/tail.js';
import { fullWidth, type Head, splitHeads } from '../head/head.js';
import { BLOCK } from '../head/rows.js';
import type { LowRankTask } from '../task.js';
import { draftPlan, openScan, putAside } from './basis.js';
import { headCost } from './cost.js';
import type { HeadPlan } from './head-plan.js';
import { type Choice, chooseAll, enoughFor, outlierCount } from './plan-choice.js';
import type { PlanOptions } from './plan-options.js';
import { ALWAYS_TRIED, FEATURE_STEPS, isUneven, type Trial } from './trial.js';
import { joinLongest, type LongestRows, type LongRows, longestOverMean } from './trial-sample.js';

export type { PlanOptions };

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
/** The shell behind the features, from which the certificate takes its operator norm. */
export const SHELL = 128;

export function* planLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
): Job<LowRankPlan, LowRankTask> {
  const heads = splitHeads(problem, options.inputGradients);
  const steps = stepsToTry(heads[0], options);
  const listed = (Math.ceil(steps[steps.length - 1] / TAIL_LISTED) + 1) * TAIL_LISTED;
  const enough = enoughFor(heads[0], options, problem.dims.batch);
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
  const inputs = new Map<string, { rows: TensorData; width: number; length: number }>();
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
