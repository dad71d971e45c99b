/** The trials of all heads, and what they need of the input. */
import { type Job, stage } from '../../../../job.js';
import type { TensorData } from '../../../../tensor/tensor.js';
import { type ComposedNorms, layerNorms } from '../../../norms.js';
import { BLOCK } from '../../head/block.js';
import type { NormsTask } from '../../head/composed-norms.js';
import { fullWidth, type Head } from '../../head/head.js';
import type { Segment } from '../../head/layout.js';
import { headCost, mostFullWidthFeatures } from '../cost.js';
import { NEXT_FEATURES } from '../draft.js';
import { enoughFor } from '../plan-choice.js';
import type { PlanOptions } from '../plan-options.js';
import { joinLongest, type LongestRows, type LongestTask, longestOverMean } from './sample.js';
import { ALWAYS_TRIED, FEATURE_STEPS, isUneven, type Trial, type TrialTask } from './trial.js';

/** Shares of the rows that may be put aside, and the one that the basis is then made without. */
const OUTLIER_SHARES = [1 / 512, 1 / 128, 1 / 64, 1 / 32] as const;
const WITHOUT = 1 / 128;
/** Which part of the work of the trials their stages are. */
const SPANS = { longest: [0, 0.07], trial: [0.07, 0.85], late: [0.85, 1] } as const;

/**
 * The trials of heads, without outliers and where it may help with them.
 *
 * @param whole heads whose norms are wanted, with all that the layer has of them. @param steps of stepsToTry.
 */
export function* tryHeads(
  heads: readonly Head[],
  whole: readonly Head[],
  batch: number,
  steps: readonly number[],
  options: PlanOptions,
): Job<
  { trials: (readonly Trial[])[]; headNorms: ComposedNorms[] },
  LongestTask | TrialTask | NormsTask
> {
  const most = steps[steps.length - 1];
  const listed = most + NEXT_FEATURES;
  const [first] = heads;
  const enough = first ? enoughFor(first, options, batch) : { rows: 0, mixed: 0 };
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
  const headNorms = whole.map((head) =>
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

/**
 * Feature numbers with which a head is still cheaper than exact, a few where none is, and the next.
 *
 * @param exactWork of the exact kernel for a head.
 */
export function stepsToTry(
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

export function segmentsOf({ queryLength, keyLength }: Head): Segment[] {
  return cut(Math.max(queryLength, keyLength));
}

function cut(length: number): Segment[] {
  const step = 32 * BLOCK;
  return Array.from({ length: Math.ceil(length / step) }, (_, s) => ({
    from: s * step,
    to: Math.min(length, (s + 1) * step),
  }));
}
