/** Floating-point operations of both kernels; a multiply-add counts as two. */

import type { PairWork } from '../../exact/cost.js';
import { fullWidth, type Head } from '../head/head.js';
import { type Layout, layout } from '../head/layout.js';
import { DRAWN_GROUPS } from '../head/plan.js';

/** Flops of the first look and of a trial: constant, times the width of the head, times its cube, and for each number that is projected. */
const [SCREEN_FLOPS, SCREEN_WIDTH, SCREEN_CUBE, SCREEN_ROWS] = [5e7, 8e5, 150, 500];
const [TRIAL_FLOPS, TRIAL_WIDTH, TRIAL_CUBE, TRIAL_ROWS] = [8e8, 1.2e7, 1600, 30_000];
/** What a row costs that a plan judges, beside its projections. */
const PLAN_ROW = 12_000;

/** Flops per second that each kernel reaches on this machine, one thread. */
export interface Rates {
  readonly exact: number;
  readonly lowRank: number;
  /** `lowRank` is not measured yet: it is when a plan needs it. */
  readonly lowRankGuessed?: boolean;
  /** What the exact kernel's pairs cost beside their flops; absent: not measured. */
  readonly pairs?: PairWork;
}

interface HeadCost {
  readonly flops: number;
  /** flops = linear L + quadratic L^2 when the outliers keep their share. */
  readonly linear: number;
  readonly quadratic: number;
}

/** What a row costs beside products (exponentials, features, copies), expressed in flops: of a gradient, and of an output alone. */
const ROW_OVERHEAD = 60_000;
const OUTPUT_ROW_OVERHEAD = 15_000;

/** Measured: what exact rows and columns beside the chain cost over their flops at its rate. */
const OUTLIER_OVERHEAD = 1.15;

/** What the error estimate draws: query rows, and mixtures of features beyond those that are used. */
export interface Draws {
  readonly rows: number;
  readonly features: number;
}

/** What a mixture of a row costs beside its part in the sums: values of all degrees, with signs. */
const MIXTURE_FLOPS = 1000;

/** Rows that the error estimate of an output draws in each head, by the number of heads. */
export function outputRows(heads: number): number {
  return Math.max(LEAST_ROWS_OF_HEAD, Math.ceil(OUTPUT_ROWS / heads));
}

const LEAST_ROWS_OF_HEAD = 32;
const OUTPUT_ROWS = 128;

/** `pairs` of features and directions at full width, both sides together. */
export function headCost(
  head: Head,
  m: number,
  outlierQueries: number,
  outlierKeys: number,
  draws: Draws,
  pairs = 0,
): HeadCost {
  const at = layout(head);
  const { d, dv, queryLength: nq, keyLength: nk, query, key, value } = head;
  const visiblePairs = visible(head);
  const backward = at.gradientTotal > 0 || head.inputGradients;
  // Over the keys; an output alone has no third pass.
  const passes = backward ? 2 : 1;
  const overhead = backward ? ROW_OVERHEAD : OUTPUT_ROW_OVERHEAD;
  // Every sum is made from the rows of one side and multiplied by those of the other; under a mask the
  // running sums are made once more.
  const columns = (m + draws.features) * (at.keyWidth + at.queryWidth) + pairs * dv;
  const chain = 2 * (nk + nq) * columns * (head.causal ? 1.5 : 1);
  const projections =
    2 *
    (nq * rowWork(query.effective.inputs, d) +
      passes * nk * (rowWork(key.effective.inputs, d) + rowWork(value.effective.inputs, dv)));
  const inputs = head.inputGradients
    ? 2 *
      (nq * query.effective.inputs * d +
        nk * (key.effective.inputs * d + value.effective.inputs * dv))
    : 0;
  const pair = pairWork(at, d, head.kind === 'target' ? 2 * dv : dv);
  const diagonal = head.causal ? 128 * nq * pairWork(at, d, dv) : 0;
  const seen = visiblePairs / nk;
  const sampled =
    samplingFlops(head, draws) +
    (draws.features > 0 ? drawnFlops(head, m, draws.features) : 2 * draws.rows * nk * m);
  // Rows of outliers are made twice, first for their sums and O; columns once, with O if G depends on it.
  const outliers =
    OUTLIER_OVERHEAD *
    (outlierQueries * (visiblePairs / nq) * pairWork(at, 2 * d, 2 * dv) +
      outlierKeys * seen * pair);
  const linear = chain + projections + inputs + diagonal + sampled + overhead * (nq + passes * nk);
  const length = Math.sqrt(nq * nk);
  return {
    flops: linear + outliers,
    linear: linear / length,
    quadratic: outliers / length ** 2,
  };
}

/** Measured: what a pair of a sampled row costs beside products, in multiply-adds of the chain: its exponential, squares, loads. */
const PAIR_OVERHEAD = 550;

/** Exact rows of P, and the errors multiplied out, for the sampled rows; without the features. */
export function samplingFlops(head: Head, { rows, features }: Draws): number {
  const { d, dv, keyLength, key, value } = head;
  const full = fullWidth(head);
  const score = full.scores ? (full.query ? d : 0) : thinColumns(head);
  const keys = full.key && key.rank > 0 ? keyRowWork(head) : 0;
  const values = value.rank > 0 ? value.rank + value.effective.inputs : 0;
  // Beside features they are made once (mixed-rows.ts), unless G needs O.
  const once = features > 0 && head.kind !== 'target';
  const pair = once ? d + 2 * dv + 2 * score : 2 * d + 3 * dv + value.rank + score + keys;
  // Rows of an output are not multiplied out.
  const passes = score + values === 0 ? 0 : once ? 1 : 2;
  return 2 * rows * keyLength * (pair + values + passes * PAIR_OVERHEAD);
}

/** What the mixtures would add to the gradients, and are made of, beside their part in the sums. */
function drawnFlops(head: Head, m: number, features: number): number {
  const { d, dv, queryLength: nq, keyLength: nk, query, key, value } = head;
  const grouped =
    nq * (query.rank * query.effective.inputs + key.rank * d) +
    nk * (query.rank * d + key.rank * key.effective.inputs);
  const values = value.rank > 0 ? nq * dv + nk * value.effective.inputs : 0;
  const mixing = (nq + 2 * nk) * features * (2 * m + MIXTURE_FLOPS);
  return 2 * (DRAWN_GROUPS * grouped + features * values) + mixing;
}

function thinColumns({ d, query, key }: Head): number {
  const all = (query.rank > 0 ? d : 0) + (key.rank > 0 ? key.effective.inputs : 0);
  return query.rank + key.rank + all;
}

/** A row of dK before the rotation, and both gradients of the adapter from it. */
function keyRowWork({ d, key }: Head): number {
  return 8 * d + key.rank * (2 * d + key.effective.inputs);
}

/** Measured cost of a plan's steps, in flops at the rate of the chain; most of it is algebra and small loops. */
interface PlanCost {
  /** The look at one head (screen.ts). */
  readonly screen: number;
  /** The trials of a head, those with outliers among them. */
  readonly trial: number;
  /** What is done with all rows of a head when it has been tried. */
  readonly rows: number;
}

export function planCost({ d, query, key, queryLength, keyLength }: Head): PlanCost {
  const inputs = query.effective.inputs + key.effective.inputs;
  return {
    screen: SCREEN_FLOPS + SCREEN_WIDTH * d + SCREEN_CUBE * d ** 3 + SCREEN_ROWS * inputs * d,
    trial: TRIAL_FLOPS + TRIAL_WIDTH * d + TRIAL_CUBE * d ** 3 + TRIAL_ROWS * inputs * d,
    rows: (queryLength + keyLength) * (PLAN_ROW + inputs * d),
  };
}

const rowWork = (inputs: number, width: number) => inputs * width + width * width;

/** One score, its dP, and the products of dS and P on either side. */
function pairWork(at: Layout, d: number, values: number): number {
  return 2 * (d + values + at.right + at.left + at.rv + at.lv);
}

/** Pairs (i, j) that the softmax covers. */
function visible(head: Head): number {
  const { queryLength: nq, keyLength: nk } = head;
  if (!head.causal) return nq * nk;
  const triangle = Math.min(nq, nk);
  return (triangle * (triangle + 1)) / 2 + (nq - triangle) * nk;
}

/** Numbers in the sums of one side at full width: 64 MiB in float64. */
const WIDE_SUMS = 2 ** 23;

/** Features for which the sums of a head have room at full width. */
export function mostFullWidthFeatures(d: number, dv: number): number {
  return Math.floor(WIDE_SUMS / (d * dv));
}
