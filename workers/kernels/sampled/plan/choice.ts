/** Coordinates of each head and one scale for all draws: the cheapest that are expected to keep a tolerance. */
import type { Checkpoint, Task } from '../../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../../problem.js';
import { shared } from '../../../tensor/shared-memory.js';
import type { Needs } from '../../exact/cost.js';
import { ROWS } from '../../inner/block.js';
import { type RowCost, rowCost } from './cost.js';
import type { Pilot } from './pilot.js';
import type { SampledPlan } from './plan.js';
import { keysAt, NAMES, type Name, SCALES, varianceAt } from './scale.js';

export interface ChoiceTask extends Task<SampledPlan> {
  readonly kernel: 'sampled';
  readonly step: 'choose';
  readonly problem: AttentionLayer & Partial<AttentionProblem>;
  readonly needs: Needs;
  /** Pilots of all heads of all batch items. */
  readonly pilots: readonly Pilot[];
  /** What the upper limit is to keep. */
  readonly tolerance: number;
  /** Mean number of drawn keys, if that is not to be chosen. */
  readonly keys: number | undefined;
  /** Variances that a first run is expected to have, which these draws top up; null: this is the first run. */
  readonly first: Readonly<Record<Name, number>> | null;
}

/** Standard errors of the limit that an answer will state, of a gradient with many elements. */
const LIMIT = 1.3;
/**
 * Between what two blocks add to a gradient, as directions: the more blocks, the more its norm is above that of unrelated ones.
 * Looks at a few blocks cannot tell it; of trained layers few have less. With more hope second runs cost more than first
 * ones save, since near keys, proxies and measured blocks are theirs again (docs/method/sampled.md).
 */
const CORRELATION = 0.006;
/** How many plans miss their tolerance, about, and what share of the keys is then drawn once more. */
const [MISSED, MORE] = [0.1, 0.5];
/** Keys of a block in the mean: fewer leave bars without meaning. */
const FEWEST_DRAWN = 8;
/** More coordinates are taken where they divide a head's variance by so much, when the number of keys is given. */
const WORTH_IT = 1.5;

/** Octaves from the best of all scales to those that are tried beside it. */
const FINE_STEPS = [-3 / 8, -2 / 8, -1 / 8, 1 / 8, 2 / 8, 3 / 8];

/** A head with some number of coordinates at some scale; 0: exact. */
interface Candidate {
  readonly coordinates: number;
  readonly cost: number;
  /** The part of the cost that grows with the length; the rest grows with its square. */
  readonly linear: number;
  /** Drawn for a block. */
  readonly keys: number;
  readonly variances: Readonly<Record<Name, number>>;
  /** The sum of them. */
  readonly variance: number;
}

interface Draft {
  readonly scale: number;
  readonly chosen: readonly Candidate[];
  readonly variances: Readonly<Record<Name, number>>;
  readonly share: number;
  readonly cost: number;
  readonly linear: number;
  readonly error: number;
}

/** @param checkpoint passed once for each scale. */
export function runChoice(task: ChoiceTask, checkpoint: Checkpoint): SampledPlan {
  const { pilots, tolerance, keys, problem, needs, first } = task;
  const cost = rowCost(problem, needs);
  const fixed = first ? cost.fixed : cost.plan + (1 + againOf(task)) * cost.fixed;
  const totals = squaresOfGradients(pilots, problem);
  const known = new Map<number, Candidate[][]>();
  const at: Candidates = (scale) => {
    checkpoint();
    const found = known.get(scale) ?? candidates(task, cost, totals, scale);
    known.set(scale, found);
    return found;
  };
  const best = keys === undefined ? cheapest(task, at) : withKeys(task, at, keys);
  return shared({
    keys: keys ?? Math.round(meanKeys(best)),
    scale: best.scale,
    heads: pilots.map(({ basis }, h) => {
      const { coordinates, variance } = best.chosen[h]!;
      return { basis, coordinates, variance };
    }),
    ...{ variances: best.variances, share: best.share },
    work: fixed + best.cost,
    linearWork: fixed + best.linear,
    predictedError: best.error,
    meetsTolerance: best.error <= tolerance,
    tried: drawing(task, at).map((draft) => ({
      keys: Math.round(meanKeys(draft)),
      error: draft.error,
      work: fixed + draft.cost,
    })),
  });
}

/** Head by head, what may be chosen at a scale. */
type Candidates = (scale: number) => Candidate[][];

/** Squares of the gradients, as those of blocks that are a little alike. */
function squaresOfGradients(
  pilots: readonly Pilot[],
  { dims }: AttentionLayer,
): Record<Name, number> {
  const alike = 1 + CORRELATION * (Math.ceil(dims.queryLength / ROWS) - 1);
  const of = (name: Name) => alike * pilots.reduce((sum, { sizes }) => sum + sizes[name], 0);
  return { query: of('query'), key: of('key'), value: of('value') };
}

/** How often a run is followed by a second one. */
const againOf = ({ keys, first }: ChoiceTask) => (first || keys !== undefined ? 0 : MISSED);

/** Mean number of keys of the heads that are not computed exactly. */
function meanKeys({ chosen }: Draft): number {
  const drawn = chosen.filter(({ coordinates }) => coordinates > 0);
  return drawn.reduce((sum, one) => sum + one.keys, 0) / Math.max(1, drawn.length);
}

function candidates(
  task: ChoiceTask,
  cost: RowCost,
  totals: Readonly<Record<Name, number>>,
  scale: number,
): Candidate[][] {
  const { problem, pilots } = task;
  const again = againOf(task);
  const rows = problem.dims.queryLength;
  const blocks = Math.ceil(rows / ROWS);
  return pilots.map(({ tried, near, seen }) => {
    const all = tried.map(({ coordinates, keys: sums }): Candidate => {
      const keys = keysAt(sums, scale) / blocks;
      const of = (name: Name) =>
        totals[name] > 0 ? varianceAt(sums, name, scale) / totals[name] : 0;
      const variances = { query: of('query'), key: of('key'), value: of('value') };
      const costOf = (seen: number) =>
        rows *
        (cost.sampled({ near, drawn: keys, seen }, coordinates) +
          again * cost.sampled({ near, drawn: MORE * keys, seen }, coordinates));
      return {
        ...{ coordinates, keys, variances },
        ...{ cost: costOf(seen), linear: costOf(near) },
        variance: NAMES.reduce((sum, name) => sum + variances[name], 0),
      };
    });
    const none = { query: 0, key: 0, value: 0 };
    const exact = { coordinates: 0, keys: 0, variances: none, variance: 0, linear: 0 };
    return [...all, { ...exact, cost: (1 + again) * rows * cost.exact(seen) }];
  });
}

function draftOf({ first }: ChoiceTask, scale: number, chosen: readonly Candidate[]): Draft {
  const of = (name: Name) => chosen.reduce((sum, { variances }) => sum + variances[name], 0);
  const variances = { query: of('query'), key: of('key'), value: of('value') };
  const share = first ? shareOf(first, variances) : 1;
  const both = NAMES.map(
    (name) => share ** 2 * variances[name] + (1 - share) ** 2 * (first?.[name] ?? 0),
  );
  return {
    ...{ scale, chosen, variances, share, cost: chosen.reduce((sum, { cost }) => sum + cost, 0) },
    linear: chosen.reduce((sum, { linear }) => sum + linear, 0),
    error: LIMIT * Math.sqrt(Math.max(...both)),
  };
}

/**
 * Weight of a second run beside a first one by the variances that are expected of them, not by those that are measured:
 * weights and errors are not to depend on each other.
 */
function shareOf(first: Draft['variances'], second: Draft['variances']): number {
  const [a, b] = [first, second].map((of) => Math.max(...NAMES.map((name) => of[name])));
  return a! > 0 ? a! / (a! + b!) : 1;
}

const least = (all: readonly Candidate[], size: (one: Candidate) => number): Candidate =>
  all.reduce((best, one) => (size(one) < size(best) ? one : best));

/** The cheapest draft of all scales. */
function cheapest(task: ChoiceTask, at: Candidates): Draft {
  const coarse = sensibleScales(task).reduce(
    (best: Draft | null, scale) => cheaper(task, at, scale, best),
    null,
  );
  if (!coarse) return allExact(task, at);
  const between = FINE_STEPS.map((step) => coarse.scale * 2 ** step);
  return between.reduce((best, scale) => cheaper(task, at, scale, best) ?? best, coarse);
}

/** The cheapest draft of one scale, if it is cheaper than the best so far; a price of variance decides what each head takes. */
function cheaper(
  task: ChoiceTask,
  at: Candidates,
  scale: number,
  best: Draft | null,
): Draft | null {
  const all = at(scale);
  const draft = (price: number) =>
    draftOf(
      task,
      scale,
      all.map((mine) => least(mine, (one) => one.cost + price * one.variance)),
    );
  // What costs least is seldom good enough.
  let found: Draft | null = null;
  let [low, high] = [0, 100];
  if (best && draft(0).cost >= best.cost) return best;
  for (let k = 0; k < 14; k++) {
    const middle = (low + high) / 2;
    const tried = draft(2 ** middle);
    if (tried.error <= task.tolerance) {
      found = tried;
      high = middle;
    } else low = middle;
  }
  return found && (!best || found.cost < best.cost) ? found : best;
}

/** Nothing is drawn: there is always this draft. */
function allExact(task: ChoiceTask, at: Candidates): Draft {
  const scale = SCALES[0]!;
  return draftOf(
    task,
    scale,
    at(scale).map((all) => all.at(-1)!),
  );
}

/** Scales that draw a few keys for a block in the mean, and not most of those that it sees. */
function sensibleScales({ problem, pilots }: ChoiceTask): number[] {
  const blocks = Math.ceil(problem.dims.queryLength / ROWS);
  const most = 0.5 * blocks * pilots.reduce((sum, { seen }) => sum + seen, 0);
  return SCALES.filter((scale) => {
    const all = pilots.reduce(
      (sum, { tried: [one] }) => sum + (one ? keysAt(one.keys, scale) : 0),
      0,
    );
    return all > FEWEST_DRAWN * blocks * pilots.length && all < most;
  });
}

/** A plan with this mean number of keys for a block, and no more coordinates than pay. */
function withKeys(task: ChoiceTask, at: Candidates, keys: number): Draft {
  const draft = (scale: number) => draftAt(task, at, scale);
  let [low, high] = [Math.log2(SCALES[0]!), Math.log2(SCALES.at(-1)!)];
  for (let k = 0; k < 40; k++) {
    const middle = (low + high) / 2;
    if (meanKeys(draft(2 ** middle)) < keys) low = middle;
    else high = middle;
  }
  return draft(2 ** high);
}

/** All heads are drawn that can be, at one scale. */
function draftAt(task: ChoiceTask, at: Candidates, scale: number): Draft {
  const chosen = at(scale).map((all) =>
    all
      .filter(({ coordinates }) => coordinates > 0 || all.length === 1)
      .reduce((best, one) => (one.variance * WORTH_IT < best.variance ? one : best)),
  );
  return draftOf(task, scale, chosen);
}

/** Plans of all heads with more and more keys, in steps of about two. They are shown in answers; nothing is chosen by them. */
function drawing(task: ChoiceTask, at: Candidates): Draft[] {
  const drafts: Draft[] = [];
  for (const scale of sensibleScales(task)) {
    const draft = draftAt(task, at, scale);
    const before = drafts.at(-1);
    if (!before || meanKeys(draft) >= 2 * meanKeys(before)) drafts.push(draft);
  }
  return drafts;
}
