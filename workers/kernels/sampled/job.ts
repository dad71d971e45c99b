/** LoRA gradients with drawn far keys, as a job: sums over the parts of a problem, then the figures of its error. */
import { type Job, type LargeTask, parts } from '../../job.js';
import type { AttentionProblem } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import type { EstimateTask } from '../exact/error/estimate.js';
import { drawsOfPart } from '../exact/error/row-samples.js';
import { joinSamples } from '../exact/join.js';
import { ROWS } from '../inner/block.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { joinGradients, placed } from '../parts/join.js';
import { ofHeads, seedOf, shareOf, takeParts } from '../parts/take.js';
import { type GradientOutputs, sharedFloat32 } from '../result.js';
import { answerOf, drawnBlocks, type MixingTask, type SampledResult, together } from './answer.js';
import { joinMeasurements, makeMeasurements } from './error/measure.js';
import type { Role } from './error/tables.js';
import type { SampledPlan } from './plan/plan.js';
import { type SampledSums, type SampledTask, type SumsOptions, sampledSums } from './sums.js';

interface SampledOptions extends GradientOutputs {
  readonly seed: number;
}

/** A part of a problem with the plan of its heads. It may run on another machine. */
export interface SampledPart extends LargeTask<SampledSums> {
  readonly kernel: 'sampled';
  readonly step: 'sums';
  readonly problem: AttentionProblem;
  readonly plan: SampledPlan;
  readonly options: SumsOptions;
}

export const sampledOf = ({ problem, plan, options }: SampledPart): Job<SampledSums, SampledTask> =>
  sampledSums(problem, plan, options);

const ofAll = ({ dims }: AttentionProblem): Cut => ({
  items: { first: 0, last: dims.batch },
  sharedHeads: { first: 0, last: dims.keyValueHeads },
  rows: { first: 0, last: dims.queryLength },
});

/** All of a problem without a cut. */
export function* sampledJob(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: SampledOptions,
): Job<SampledResult, SampledTask> {
  const wanted = optionsOfPart(problem, plan, options, ofAll(problem), 0);
  return yield* answerOf(problem, plan, options, yield* sampledSums(problem, plan, wanted));
}

type PartsTask = SampledPart | BlocksTask;

/** The cut follows from the problem and its plan alone: the answer is the same wherever the parts run. */
export function* sampledParts(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: SampledOptions,
  cuts = cutsOf(problem, plan, options),
): Job<SampledResult, PartsTask | EstimateTask> {
  return yield* answerOf(problem, plan, options, yield* sumsOfParts(problem, plan, options, cuts));
}

/**
 * A first answer and a second run, whose draws are its own, become one; the plan of the second has its weight. What they
 * answer together is in the tensors of the first.
 */
export function* toppedUp(
  problem: AttentionProblem,
  first: SampledResult,
  plan: SampledPlan,
  options: SampledOptions,
  cuts = cutsOf(problem, plan, options),
): Job<SampledResult, PartsTask | MixingTask> {
  const second = yield* sumsOfParts(problem, plan, options, cuts, false);
  return yield* together(problem, first, plan, second, options.seed);
}

/** A part is cut as one of exact of so much of its work: what it copies, and narrows anew, is more of that. */
const OF_EXACT = 0.5;

const cutsOf = (
  problem: AttentionProblem,
  { work }: SampledPlan,
  { inputGradients }: SampledOptions,
) => {
  const needs = { gradients: true, inputGradients: inputGradients !== undefined };
  return cutProblem(problem, needs, OF_EXACT * work);
};

/** @param twice whether rows are looked at twice, for what rounding does. */
function* sumsOfParts(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: SampledOptions,
  cuts: readonly Cut[],
  twice = true,
): Job<SampledSums, PartsTask> {
  const memory = new Lease();
  const taken = yield* takeParts(problem, cuts, memory);
  const tasks = taken.map((part, k): SampledPart => {
    const cut = cuts[k]!;
    return {
      ...{ kernel: 'sampled', step: 'sums', problem: part },
      plan: { ...plan, heads: ofHeads(problem, cut, plan.heads) },
      options: optionsOfPart(problem, plan, options, cut, k, twice),
      flops: plan.work * shareOf(problem, cut),
    };
  });
  const sums = yield* parts(tasks, sampledOf);
  memory.end();
  return yield* joinSums(problem, options, cuts, sums);
}

/** Rows that are looked at twice: their limit is wide, and far below that of the draws all the same. */
const ROWS_TWICE = 8;

/** A part draws what the whole would draw, and measures as many of its blocks as the whole would. */
function optionsOfPart(
  problem: AttentionProblem,
  plan: SampledPlan,
  { seed, ...outputs }: SampledOptions,
  cut: Cut,
  part: number,
  twice = true,
): SumsOptions {
  const { items, sharedHeads, rows } = cut;
  const { heads, keyValueHeads, queryLength } = problem.dims;
  return {
    ...outputs,
    seed,
    origin: {
      batchItem: items.first,
      head: (sharedHeads.first * heads) / keyValueHeads,
      block: Math.floor(rows.first / ROWS),
      heads,
      blocks: Math.ceil(queryLength / ROWS),
    },
    measure: {
      blocks: drawnBlocks(problem, plan),
      variance: plan.heads.reduce((sum, { variance }) => sum + variance, 0),
      seed: seedOf(seed, part),
    },
    estimate: twice ? drawsOfPart(problem, { rows: ROWS_TWICE, seed }, cut, part) : null,
  };
}

function* joinSums(
  problem: AttentionProblem,
  outputs: GradientOutputs,
  cuts: readonly Cut[],
  sums: readonly SampledSums[],
): Job<SampledSums, BlocksTask> {
  if (sums.length === 1) return sums[0]!;
  const all = placed(problem, cuts, sums);
  const joined = yield* joinGradients(problem, outputs, all, sharedFloat32);
  const samples = yield* joinSamples(problem, joined, all);
  const measurements = makeMeasurements(problem.dims.heads);
  const squares: Partial<Record<Role, Float64Array>> = {};
  const longest: Partial<Record<Role, number>> = {};
  for (const part of sums) {
    joinMeasurements(measurements, part.measurements);
    for (const [role, more] of Object.entries(part.squares) as [Role, Float64Array][]) {
      const before = squares[role];
      squares[role] = before ? before.map((x, c) => x + more[c]!) : more;
    }
    for (const [role, norm] of Object.entries(part.longest) as [Role, number][]) {
      longest[role] = Math.max(longest[role] ?? 0, norm);
    }
  }
  return { ...joined, measurements, squares, samples, longest };
}
