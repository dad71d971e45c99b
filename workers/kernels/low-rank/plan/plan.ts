/** The plan of a low-rank run: features and outliers of every head, predicted error and cost. */

import { type Job, stage } from '../../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { exactFlops, exactWork } from '../../exact/cost.js';
import { type ComposedNorms, layerNorms } from '../../norms.js';
import { canDrawFeatures, DRAWN_LISTED } from '../error/drawn-features/draw.js';
import { BLOCK } from '../head/block.js';
import type { NormsTask } from '../head/composed-norms.js';
import { fullWidth, type Head, outputHead } from '../head/head.js';
import type { Segment } from '../head/layout.js';
import type { HeadPlan } from '../head/plan.js';
import { type SplitTask, splitHeads } from '../head/split.js';
import type { AsideTask } from './aside.js';
import { headCost } from './cost.js';
import { type DraftTask, NEXT_FEATURES } from './draft.js';
import { type Choice, chooseAll, enoughFor, outlierCount } from './plan-choice.js';
import type { PlanOptions } from './plan-options.js';
import { openScan, type ScanTask } from './scan.js';
import {
  joinLongest,
  type LongestRows,
  type LongestTask,
  longestOverMean,
} from './trial/sample.js';
import {
  ALWAYS_TRIED,
  FEATURE_STEPS,
  isUneven,
  type Trial,
  type TrialTask,
} from './trial/trial.js';
import { type TriedFeatures, triedFeatures } from './tried-features.js';

export type { PlanOptions };

/** What a worker does for a plan. */
export type PlanTask =
  | SplitTask
  | LongestTask
  | TrialTask
  | NormsTask
  | DraftTask
  | ScanTask
  | AsideTask;

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
  /** Of each head: they decide on the theoretical threshold. */
  readonly headNorms: readonly ComposedNorms[];
  /** What was tried, with the outliers and draws of the plan. */
  readonly tried: readonly TriedFeatures[];
  /** On one thread of this machine. */
  readonly seconds: {
    readonly lowRank: number;
    /** The part of it that grows with L; the rest grows with L^2. */
    readonly lowRankLinear: number;
    readonly exact: number;
  };
}

/** Shares of the rows that may be put aside, and the one that the basis is then made without. */
const OUTLIER_SHARES = [1 / 512, 1 / 128, 1 / 64, 1 / 32] as const;
const WITHOUT = 1 / 128;
/** Of the exact kernel. */
interface ExactCost {
  readonly flops: number;
  readonly work: number;
}

function exactCost(
  problem: AttentionLayer & Partial<AttentionProblem>,
  { outputOnly = false, inputGradients = false, rates }: PlanOptions,
): ExactCost {
  const output = outputOnly || problem.objective?.kind === 'target';
  const needs = { output, gradients: !outputOnly, inputGradients };
  return { flops: exactFlops(problem, needs), work: exactWork(problem, needs, rates.pairs) };
}

/** Which part of the work of a plan its stages are. */
const SPANS = {
  split: [0, 0.1],
  longest: [0.1, 0.15],
  trial: [0.15, 0.7],
  late: [0.7, 0.8],
  draft: [0.8, 0.82],
  scan: [0.82, 0.95],
  aside: [0.95, 1],
} as const;

export function* planLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
): Job<LowRankPlan, PlanTask> {
  const whole = yield* splitHeads(problem, options.inputGradients, SPANS.split);
  const heads = options.outputOnly ? whole.map(outputHead) : whole;
  const exact = exactCost(problem, options);
  const { trials, headNorms } = yield* tryHeads(heads, whole, problem.dims.batch, exact, options);
  const allowed = options.withoutOutliers ? trials.map(([none]) => [none]) : trials;
  const { choices, ...sampled } = chooseAll(heads, allowed, problem.dims.batch, options);
  const drafts = yield* stage(
    'draft',
    heads.map((head, h): DraftTask => {
      const { trial, m } = choices[h];
      return { kernel: 'low_rank', step: 'draft', head, basis: trial.basis, m };
    }),
    SPANS.draft,
  );
  const scans = heads.map(openScan);
  yield* stage(
    'scan',
    heads.flatMap((head, h) =>
      segmentsOf(head).map((segment): ScanTask => {
        return { kernel: 'low_rank', step: 'scan', head, plan: drafts[h], segment, scan: scans[h] };
      }),
    ),
    SPANS.scan,
  );
  const headPlans = yield* stage(
    'aside',
    heads.map((head, h): AsideTask => {
      const { share, trial } = choices[h];
      return {
        ...{ kernel: 'low_rank', step: 'aside', head, draft: drafts[h], scan: scans[h] },
        outlierQueries: outlierCount(head, head.queryLength, share),
        outlierKeys: outlierCount(head, head.keyLength, share),
        trial,
        sampledFeatures: sampled.sampledFeatures,
        // Nothing that the features were chosen by is drawn again.
        seed: options.seed ^ (0x7a11 + h),
      };
    }),
    SPANS.aside,
  );
  return {
    ...summary(heads, headPlans, choices, sampled, problem.dims.batch, exact, options),
    headNorms,
  };
}

/** The trials of every head, without outliers and where it may help with them; and the norms of the layer. */
function* tryHeads(
  heads: readonly Head[],
  whole: readonly Head[],
  batch: number,
  exact: ExactCost,
  options: PlanOptions,
): Job<{ trials: (readonly Trial[])[]; headNorms: ComposedNorms[] }, PlanTask> {
  const steps = stepsToTry(heads[0], exact.work / heads.length, options);
  const most = steps[steps.length - 1];
  const drawable = heads.every(canDrawFeatures);
  const listed = drawable
    ? (Math.ceil(most / DRAWN_LISTED) + 1) * DRAWN_LISTED
    : most + NEXT_FEATURES;
  const enough = enoughFor(heads[0], options, batch);
  const { longest, heavyTailed } = yield* longestOfHeads(heads);
  const attempt = (wanting: readonly number[], shares: readonly number[], without: number) =>
    wanting.map((h): TrialTask => {
      const given = { listed, steps, enough, longest: longest[h], seed: options.seed };
      const request = { shares, without, ...given };
      return { kernel: 'low_rank', step: 'trial', head: heads[h], request };
    });
  const all = heads.map((_, h) => h);
  // Trials are few and long: the norms, which need no basis, keep the other workers busy, and so do trials
  // with outliers where they will be wanted.
  const likely = all.filter((h) => heavyTailed[h]);
  const [plainly, early] = [attempt(all, [0], 0), attempt(likely, OUTLIER_SHARES, WITHOUT)];
  const normTasks = whole.flatMap((head) =>
    segmentsOf(head).map((segment): NormsTask => {
      return { kernel: 'low_rank', step: 'norms', head, segment };
    }),
  );
  const found = yield* stage('trial', [...plainly, ...early, ...normTasks], SPANS.trial);
  const tried = found.slice(0, plainly.length + early.length) as Trial[][];
  const norms = found.slice(tried.length) as ComposedNorms[];
  const headNorms = heads.map((head) =>
    layerNorms(norms.filter((_, k) => normTasks[k].head === head)),
  );
  const without = tried.slice(0, heads.length);
  const uneven = all.filter((h) => {
    const [{ rows }] = without[h];
    return isUneven(heads[h], rows[rows.length - 1]);
  });
  const missing = uneven.filter((h) => !heavyTailed[h]);
  const late = yield* stage('trial', attempt(missing, OUTLIER_SHARES, WITHOUT), SPANS.late);
  const withOutliers = new Map([
    ...likely.map((h, i) => [h, tried[heads.length + i]] as const),
    ...missing.map((h, i) => [h, late[i]] as const),
  ]);
  return {
    trials: all.map((h) =>
      uneven.includes(h) ? [...without[h], ...withOutliers.get(h)!] : without[h],
    ),
    headNorms,
  };
}

/** Square of the longest row over the mean one, from which on trials with outliers are made without asking. */
const HEAVY_TAIL = 4;

/**
 * The longest rows of the inputs of every head, and whether they are much longer than others; heads of one
 * batch item share theirs.
 */
function* longestOfHeads(
  heads: readonly Head[],
): Job<{ longest: LongestRows[]; heavyTailed: boolean[] }, LongestTask> {
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
  const found = yield* stage(
    'longest',
    tasks.map(({ key: _, ...rest }): LongestTask => {
      return { kernel: 'low_rank', step: 'longest', ...rest };
    }),
    SPANS.longest,
  );
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
function stepsToTry(
  head: Head,
  exactWork: number,
  { features, rates }: PlanOptions,
): readonly number[] {
  if (features !== undefined) return [features];
  const { query, key } = fullWidth(head);
  const sides = Number(query) + Number(key);
  const paying = FEATURE_STEPS.filter((m) => {
    const pairs = sides * m * head.d * CROSS_SHARE;
    const { flops } = headCost(head, m, 0, 0, { rows: 0, features: 0 }, pairs);
    return m <= ALWAYS_TRIED || flops / rates.lowRank < exactWork / rates.exact;
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

function segmentsOf({ queryLength, keyLength }: Head): Segment[] {
  return cut(Math.max(queryLength, keyLength));
}

function cut(length: number): Segment[] {
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
  exact: ExactCost,
  options: PlanOptions,
): Omit<LowRankPlan, 'headNorms'> {
  const { tolerance, rates } = options;
  const draws = { rows: sampled.sampledRows / batch, features: sampled.sampledFeatures };
  const costs = heads.map((head, h) => {
    const { m, outlierQueries, outlierKeys } = headPlans[h];
    const { right, left } = headPlans[h].hyperbolicCross;
    const pairs = (right?.pairs ?? 0) + (left?.pairs ?? 0);
    return headCost(head, m, outlierQueries.length, outlierKeys.length, draws, pairs);
  });
  const total = (of: (cost: (typeof costs)[number]) => number) =>
    costs.reduce((sum, cost) => sum + of(cost), 0);
  const pairs = heads[0].queryLength * heads[0].keyLength;
  const saved = exact.work / pairs / rates.exact - total((c) => c.quadratic) / rates.lowRank;
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
    exactFlops: exact.flops,
    predictedError,
    tried: triedFeatures(heads, choices, options, draws),
    meetsTolerance: predictedError <= tolerance,
    breakEvenLength: saved > 0 ? Math.ceil(total((c) => c.linear) / rates.lowRank / saved) : null,
    seconds: {
      lowRank: total((c) => c.flops) / rates.lowRank,
      lowRankLinear: total((c) => c.flops - c.quadratic * pairs) / rates.lowRank,
      exact: exact.work / rates.exact,
    },
  };
}
