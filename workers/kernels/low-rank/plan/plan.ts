/** The plan of a low-rank run: features and outliers of every head, predicted error and cost. */

import { type Job, stage, within } from '../../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../../problem.js';
import { exactFlops, exactWork } from '../../exact/cost.js';
import type { ComposedNorms } from '../../norms.js';
import type { PlanBudget } from '../../plan-budget.js';
import type { NormsTask } from '../head/composed-norms.js';
import { type Head, outputHead } from '../head/head.js';
import type { HeadPlan } from '../head/plan.js';
import { type SplitTask, splitHeads } from '../head/split.js';
import type { AsideTask } from './aside.js';
import { headCost, planCost } from './cost.js';
import type { DraftTask } from './draft.js';
import { type Choice, chooseAll, outlierCount } from './plan-choice.js';
import type { PlanOptions } from './plan-options.js';
import { openScan, type ScanTask } from './scan.js';
import type { ScreenTask } from './screen.js';
import { segmentsOf, stepsToTry, tryHeads } from './trial/heads.js';
import type { LongestTask } from './trial/sample.js';
import type { Judged, Trial, TrialTask } from './trial/trial.js';
import { type TriedFeatures, triedFeatures } from './tried-features.js';

export type { PlanOptions };

/** What a worker does for a plan. */
export type PlanTask =
  | SplitTask
  | ScreenTask
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
  /** Norms of each head, which the theoretical threshold is about. */
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

/** Cost of the exact kernel. */
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
  first: [0.1, 0.2],
  trials: [0.2, 0.8],
  draft: [0.8, 0.82],
  scan: [0.82, 0.95],
  aside: [0.95, 1],
} as const;

export function* planLowRank(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
): Job<LowRankPlan, PlanTask> {
  const layer = yield* openLayer(problem, options);
  const tried = yield* tryRest(layer, []);
  return yield* finish(layer, tried.headNorms, chosen(layer, tried.trials));
}

/** The best that can be expected where no plan is made: features, their error, and seconds of a run. */
export interface Miss extends Pick<LowRankPlan, 'features' | 'predictedError'> {
  readonly seconds: number;
}

/**
 * The plan, or why there is none, which is seen as early as may be: on a few rows of the first head, then on the trials of the
 * heads that share the first key/value head, then on those of all. Each step is priced before it begins.
 *
 * @returns miss: null where not even a look pays.
 */
export function* findPlan(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
  budget: PlanBudget,
): Job<LowRankPlan | { readonly miss: Miss | null }, PlanTask> {
  const layer = yield* openLayer(problem, options);
  const { heads, batch, steps } = layer;
  const [head] = heads;
  const cost = planCost(head);
  const seconds = (flops: number) => flops / options.rates.lowRank;
  if (!budget.affords(seconds(cost.screen))) return { miss: null };
  const task: ScreenTask = {
    ...{ kernel: 'low_rank', step: 'screen', head, steps, seed: options.seed },
  };
  const [screened] = yield* stage('screen', [task]);
  const most = screened.rows[screened.rows.length - 1];
  const left = most.score.error;
  if (left > HOPELESS * options.tolerance) {
    return { miss: { features: most.features, predictedError: left, seconds: 0 } };
  }
  const first = heads.filter((head) => head.batch === 0 && head.keyValueHead === 0);
  const rest = heads.length - first.length;
  /** Seconds for trials of so many heads, and for what is then done with all heads. */
  const price = (count: number) => seconds(count * cost.trial + heads.length * cost.rows);
  const look = chosen({ ...layer, heads: [head] }, [[screened]]);
  const saved = savedBy(layer, look, 1) - price(heads.length);
  if (!budget.affords(seconds(first.length * cost.trial), saved)) {
    return { miss: missOf(layer, look, 1) };
  }
  const { trials } = yield* within(SPANS.first, tryHeads(first, [], batch, steps, options));
  const ofFirst = chosen({ ...layer, heads: first }, trials);
  const still = savedBy(layer, ofFirst, first.length) - price(rest);
  if (!(still > 0 && budget.affords(price(rest), still))) {
    return { miss: missOf(layer, ofFirst, first.length) };
  }
  const { headNorms, ...all } = yield* tryRest(layer, trials);
  const ofAll = chosen(layer, all.trials);
  return savedBy(layer, ofAll, heads.length) > 0
    ? yield* finish(layer, headNorms, ofAll)
    : { miss: missOf(layer, ofAll, heads.length) };
}

/** A multiple of the tolerance: rows that are not normal had up to 2.5 times less error than the first look says, unless the softmax was saturated. */
const HOPELESS = 3;

/** What is planned for: its heads, and what the plan is compared with. */
interface Layer {
  readonly heads: readonly Head[];
  /** The same with all that the layer has of them. */
  readonly whole: readonly Head[];
  readonly batch: number;
  readonly exact: ExactCost;
  /** Numbers of features to try. */
  readonly steps: readonly number[];
  readonly options: PlanOptions;
}

function* openLayer(
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: PlanOptions,
): Job<Layer, SplitTask> {
  const whole = yield* splitHeads(problem, options.inputGradients, SPANS.split);
  const heads = options.outputOnly ? whole.map(outputHead) : whole;
  const exact = exactCost(problem, options);
  const steps = stepsToTry(heads[0], exact.work / heads.length, options);
  return { heads, whole, batch: problem.dims.batch, exact, steps, options };
}

interface Tried {
  readonly trials: readonly (readonly Trial[])[];
  readonly headNorms: readonly ComposedNorms[];
}

/** The trials of all heads after the first ones, which are known, and the norms. */
function* tryRest(
  { heads, whole, batch, steps, options }: Layer,
  known: Tried['trials'],
): Job<Tried, LongestTask | TrialTask | NormsTask> {
  const rest = tryHeads(heads.slice(known.length), whole, batch, steps, options);
  const { trials, headNorms } = yield* within(SPANS.trials, rest);
  return { trials: [...known, ...trials], headNorms };
}

type Chosen<T extends Judged = Trial> = ReturnType<typeof chooseAll<T>>;

function chosen<T extends Judged>(
  { heads, batch, options }: Pick<Layer, 'heads' | 'batch' | 'options'>,
  trials: readonly (readonly T[])[],
): Chosen<T> {
  const allowed = options.withoutOutliers ? trials.map(([none]) => [none]) : trials;
  return chooseAll(heads, allowed, batch, options);
}

/** What the tried heads say of all heads. */
function missOf<T extends Judged>({ heads }: Layer, { choices }: Chosen<T>, of: number): Miss {
  return {
    features: Math.max(...choices.map(({ m }) => m)),
    predictedError: Math.max(...choices.map(({ error }) => error)),
    seconds: (heads.length / of) * choices.reduce((sum, choice) => sum + choice.seconds, 0),
  };
}

/** Seconds that a run is expected to be faster than exact; less than 0 where it misses its tolerance. */
function savedBy<T extends Judged>(layer: Layer, found: Chosen<T>, of: number): number {
  const { predictedError, seconds } = missOf(layer, found, of);
  const { exact, options } = layer;
  return predictedError <= options.tolerance ? exact.work / options.rates.exact - seconds : -1;
}

function* finish(
  { heads, batch, exact, options }: Layer,
  headNorms: Tried['headNorms'],
  { choices, ...sampled }: Chosen,
): Job<LowRankPlan, PlanTask> {
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
    ...summary(heads, headPlans, choices, sampled, batch, exact, options),
    headNorms,
  };
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
