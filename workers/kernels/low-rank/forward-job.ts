/** The attention output alone: the first two passes of the chain over each part, and the error of rows drawn afresh. */

import { type Job, type LargeTask, parts, stage, type Task, within } from '../../job.js';
import type { AttentionLayer } from '../../problem.js';
import type { Lease } from '../../tensor/shared-memory.js';
import { proportional } from '../estimate/draw.js';
import type { ErrorEstimate } from '../estimate/estimate.js';
import { type RowError, rowErrorEstimate } from '../estimate/row-error.js';
import type { BlocksTask } from '../parts/blocks.js';
import type { Cut } from '../parts/cut.js';
import { joinForward, placed } from '../parts/join.js';
import { seedOf, takeParts } from '../parts/take.js';
import { Random } from '../random.js';
import { type ForwardResult, sharedFloat32 } from '../result.js';
import { ROUNDOFF } from './arithmetic/arithmetic.js';
import { mergeRows } from './chain/keys.js';
import { squaredOutputTerms } from './chain/rounding.js';
import { openRun, recordWidth } from './chain/run.js';
import { type ChainTask, chainJob } from './chain-job.js';
import { NO_CONDITIONAL_MEAN } from './error/drawn-features/conditional-mean.js';
import { loadSampled, openSampledRun, type SampledRun } from './error/sampled-rows/sampled-run.js';
import { outputHead } from './head/head.js';
import type { HeadPlan } from './head/plan.js';
import { TENSORS } from './head/tensors.js';
import type { Workspace } from './head/workspace.js';
import { cutByPlan, headsOfPart, type PartPlan, planOfPart } from './part.js';
import { outputRows } from './plan/cost.js';
import type { LowRankPlan } from './plan/plan.js';
import type { RunPlan, SampledTask } from './sums.js';

interface LowRankForwardResult extends ForwardResult {
  readonly attentionOutput: Float32Array;
  readonly error: ErrorEstimate;
  /** Rows whose row sum the features lost. Not zero: output and error are void. */
  readonly lostRows: number;
}

/** Heads of a layer with their plans. They may run on another machine. */
export interface LowRankForwardPart extends LargeTask<LowRankForwardSums> {
  readonly kernel: 'low_rank';
  readonly step: 'forward';
  readonly layer: AttentionLayer;
  readonly plan: PartPlan;
  readonly draws: OutputDraws;
}

/** Draws of each head. */
interface OutputDraws {
  readonly count: number;
  readonly seed: number;
}

/** What is known after the last head. Parts stand beside each other. */
interface LowRankForwardSums extends ForwardResult {
  readonly attentionOutput: Float32Array;
  /** Errors of drawn rows, as many of each head. */
  readonly errors: readonly RowError[];
  /** |O|^2, and of rows set aside the sum of squaredOutputTerms. */
  readonly square: number;
  readonly aside: number;
  readonly lostRows: number;
}

/** What the estimate does not see, since it forms its rows anew in float32. */
const ROUNDING = 64 * ROUNDOFF;

/** Draws the rows of one head. */
interface OutputDrawTask extends Task<HeadDraws> {
  readonly kernel: 'low_rank';
  readonly step: 'output_draw';
  readonly residual: Float32Array;
  readonly count: number;
  readonly seed: number;
}

/** Squares of the errors of the drawn rows of a head. */
interface OutputErrorsTask extends Task<Float64Array> {
  readonly kernel: 'low_rank';
  readonly step: 'output_errors';
  readonly sampled: SampledRun;
}

export type ForwardTask =
  | ChainTask
  | OutputDrawTask
  | OutputErrorsTask
  | SampledTask<'sampled_exact'>;

/** Rows of a head, and the expected number of draws of each if all rows were drawn alike. */
interface HeadDraws {
  readonly rows: readonly number[];
  readonly weight: readonly number[];
  /** The rows in rising order, each once. */
  readonly list: Int32Array;
}

/**
 * All of a layer without a cut.
 *
 * @param plan of the output, or of the gradient: both of a step then have one output.
 */
export function* lowRankForwardJob(
  layer: AttentionLayer,
  plan: LowRankPlan,
  { seed }: { readonly seed: number },
): Job<LowRankForwardResult, ForwardTask> {
  const draws = { seed, count: outputRows(plan.heads.length) };
  return measured(layer, yield* forwardSums(layer, plan, draws));
}

/** The cut follows from the layer and its plan alone, as with the gradient. */
export function* lowRankForwardParts(
  layer: AttentionLayer,
  plan: LowRankPlan,
  seed: number,
  cuts: readonly Cut[] = cutByPlan(layer, plan, { gradients: false, inputGradients: false }),
): Job<LowRankForwardResult, LowRankForwardPart | BlocksTask> {
  const count = outputRows(plan.heads.length);
  const taken = yield* takeParts(layer, cuts);
  const tasks = taken.map(
    (part, k): LowRankForwardPart => ({
      ...{ kernel: 'low_rank', step: 'forward', layer: part },
      ...planOfPart(layer, plan, cuts, k),
      draws: { seed: seedOf(seed, k), count },
    }),
  );
  const sums = yield* parts(tasks, lowRankForwardOf);
  if (sums.length === 1) return measured(layer, sums[0]!);
  const joined = yield* joinForward(layer, placed(layer, cuts, sums), sharedFloat32);
  const total = (of: (part: LowRankForwardSums) => number) =>
    sums.reduce((sum, part) => sum + of(part), 0);
  return measured(layer, {
    ...joined,
    errors: sums.flatMap(({ errors }) => errors),
    square: total(({ square }) => square),
    aside: total(({ aside }) => aside),
    lostRows: total(({ lostRows }) => lostRows),
  });
}

export function* lowRankForwardOf(part: LowRankForwardPart): Job<LowRankForwardSums> {
  const { layer, plan, draws } = part;
  const heads = yield* headsOfPart(layer, plan, false);
  return yield* forwardSums(layer, { ...plan, heads }, draws);
}

/** Adds the error figure to an output: what the drawn rows say about it. */
function measured(
  { dims }: AttentionLayer,
  { errors, square, aside, lostRows, ...result }: LowRankForwardSums,
): LowRankForwardResult {
  const rows = dims.batch * dims.heads * dims.queryLength;
  const { upper, ...estimate } = rowErrorEstimate(errors, rows, square);
  return {
    ...result,
    error: {
      ...estimate,
      upper: upper + (square > 0 ? ROUNDING + ROUNDOFF * Math.sqrt(aside / square) : 0),
    },
    lostRows: Number.isFinite(square) ? lostRows : Math.max(1, lostRows),
  };
}

function* forwardSums(
  layer: AttentionLayer,
  plan: RunPlan,
  { count, seed }: OutputDraws,
): Job<LowRankForwardSums, ForwardTask> {
  const { batch, queryLength, heads: headCount, valueDim } = layer.dims;
  const size = queryLength * headCount * valueDim;
  const output = sharedFloat32(batch * size);
  const draws = yield* stage(
    'draw',
    plan.headPlans.map(({ residual }, h): OutputDrawTask => {
      const drawn = { residual, count, seed: (seed ^ 0xf0f0) + h };
      return { kernel: 'low_rank', step: 'output_draw', ...drawn };
    }),
    [0, 0.05],
  );
  const errors: RowError[] = [];
  let [square, aside] = [0, 0];
  let lostRows = 0;
  let first = 0;
  const open = (h: number, memory: Lease) => {
    const item = output.subarray(plan.heads[h].batch * size, (plan.heads[h].batch + 1) * size);
    const [head, headPlan] = [outputHead(plan.heads[h]), forwardPlan(plan.headPlans[h])];
    return openRun(head, headPlan, draws[h].list, item, memory);
  };
  const options = { certified: false, backward: false };
  const chain = chainJob(layer, plan.heads.length, open, options, function* (runs, memory): Job<
    void,
    ForwardTask
  > {
    for (const run of runs) {
      for (const part of run.loss) square += 2 * part;
      aside += run.asideTerms[TENSORS.length]!;
      for (const part of run.lostRows) lostRows += part;
    }
    const opened = runs.map((run) => openSampledRun(run, new Float32Array(0), memory));
    const perSegment = opened.flatMap((sampled) =>
      sampled.run.segments.map((_, segment): SampledTask<'sampled_exact'> => {
        return { kernel: 'low_rank', step: 'sampled_exact', sampled, segment };
      }),
    );
    yield* stage('sampled_exact', perSegment, [0, 0.8]);
    const found = yield* stage(
      'sampled_errors',
      opened.map((sampled): OutputErrorsTask => {
        return { kernel: 'low_rank', step: 'output_errors', sampled };
      }),
      [0.8, 1],
    );
    found.forEach((squares, i) => {
      const { rows, weight, list } = draws[first + i];
      rows.forEach((row, k) => {
        errors.push(squares[list.indexOf(row)] / weight[k]);
      });
    });
    first += runs.length;
  });
  yield* within([0.05, 1], chain);
  return { attentionOutput: output, headNorms: plan.headNorms, errors, square, aside, lostRows };
}

/** Half of the draws even, half by the square of what the features leave out of a row. */
export function drawOutputs({ residual, count, seed }: OutputDrawTask): HeadDraws {
  const random = new Random(seed);
  const n = residual.length;
  const squares = new Float64Array(n);
  for (let i = 0; i < n; i++) squares[i] = residual[i] * residual[i];
  const byResidual = proportional(squares, random);
  const rows = Array.from({ length: count }, (_, k) =>
    k % 2 === 0 ? random.integer(n) : byResidual.draw(),
  );
  return {
    rows,
    weight: rows.map((row) => 0.5 + 0.5 * n * byResidual.probability(row)),
    list: Int32Array.from(new Set(rows)).sort(),
  };
}

const forwardPlan = (plan: HeadPlan): HeadPlan => ({
  ...plan,
  hyperbolicCross: { right: null, left: null },
  drawnFeatures: null,
  conditionalMean: NO_CONDITIONAL_MEAN,
  centreVA: new Float64Array(0),
});

/** |O - O~|^2 of the sampled rows of a head, and what both may have lost. */
export function outputErrors(space: Workspace, { run, exact }: SampledRun): Float64Array {
  const { dv } = run.head;
  const n = run.sampled.length;
  const { output, norms } = mergeRows(space, exact, n);
  const rounded = squaredOutputTerms(run.head, loadSampled(space, run), norms);
  const width = recordWidth(run.head);
  return Float64Array.from(run.sampled, (row, i) => {
    // Outlier rows are exact in the chain too, and known.
    if (space.isOutlierQuery(row)) return 0;
    let sum = ROUNDOFF ** 2 * rounded[i]!;
    for (let a = 0; a < dv; a++) {
      sum += (output[i * dv + a] - run.sampledRows[i * width + 3 + a]) ** 2;
    }
    return sum;
  });
}
