/** LoRA gradients with drawn far keys, as a job: sums over the parts of a problem, then the figures of its error. */
import { type Job, type LargeTask, parts } from '../../job.js';
import { type AttentionProblem, hasAttentionStates } from '../../problem.js';
import type { ErrorEstimate } from '../estimate/estimate.js';
import type { ErrorEstimates, EstimateTask } from '../exact/error/estimate.js';
import { drawsOfPart, rowsForEstimate } from '../exact/error/row-samples.js';
import { roundingErrors } from '../exact/gradient.js';
import { joinSamples } from '../exact/join.js';
import { ROWS } from '../inner/block.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { joinGradients, placed } from '../parts/join.js';
import { ofHeads, seedOf, shareOf, takeParts } from '../parts/take.js';
import { type GradientOutputs, type GradientResult, sharedFloat32 } from '../result.js';
import { drawErrors } from './error/errors.js';
import { joinMeasurements, makeMeasurements } from './error/measure.js';
import { normOf } from './error/norms.js';
import type { Role } from './error/tables.js';
import type { SampledPlan } from './plan/plan.js';
import { type SampledSums, type SampledTask, type SumsOptions, sampledSums } from './sums.js';

export interface SampledOptions extends GradientOutputs {
  readonly seed: number;
}

export interface SampledResult extends GradientResult {
  /** By tensor, as the answer's `error` has them. */
  readonly errors: ErrorEstimates;
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
  return yield* measured(problem, plan, options, yield* sampledSums(problem, plan, wanted));
}

/** The cut follows from the problem and its plan alone: the answer is the same wherever the parts run. */
export function* sampledParts(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: SampledOptions,
  cuts: readonly Cut[] = cutProblem(
    problem,
    { gradients: true, inputGradients: options.inputGradients !== undefined },
    plan.work,
  ),
): Job<SampledResult, SampledPart | BlocksTask | EstimateTask> {
  const taken = yield* takeParts(problem, cuts);
  const tasks = taken.map((part, k): SampledPart => {
    const cut = cuts[k]!;
    return {
      ...{ kernel: 'sampled', step: 'sums', problem: part },
      plan: { ...plan, heads: ofHeads(problem, cut, plan.heads) },
      options: optionsOfPart(problem, plan, options, cut, k),
      flops: plan.work * shareOf(problem, cut),
    };
  });
  const sums = yield* parts(tasks, sampledOf);
  const joined = yield* joinSums(problem, options, cuts, sums);
  return yield* measured(problem, plan, options, joined);
}

/** Blocks that are drawn, or might be. */
function drawnBlocks({ dims }: AttentionProblem, { heads }: SampledPlan): number {
  const drawn = heads.filter(({ coordinates }) => coordinates > 0);
  return Math.ceil(dims.queryLength / ROWS) * drawn.length;
}

/** A part draws what the whole would draw, and measures as many of its blocks as the whole would. */
function optionsOfPart(
  problem: AttentionProblem,
  plan: SampledPlan,
  { seed, ...outputs }: SampledOptions,
  cut: Cut,
  part: number,
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
    estimate: drawsOfPart(problem, { rows: rowsForEstimate(problem), seed }, cut, part),
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
  const measurements = makeMeasurements();
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

/** From sums to an answer: what the measured blocks, and rows that were looked at twice, say about each gradient. */
function* measured(
  problem: AttentionProblem,
  plan: SampledPlan,
  { inputGradients: kind }: GradientOutputs,
  { measurements, squares, samples, longest, loss, ...sums }: SampledSums,
): Job<SampledResult, EstimateTask> {
  const norms = Object.fromEntries(
    Object.entries(squares).map(([role, ofColumns]) => [role, normOf(ofColumns)]),
  );
  // Gradients of inputs by way of projections have no figure here.
  const states = hasAttentionStates(problem) ? sums.inputGradients : null;
  const known = { ...sums, inputGradients: states };
  const found = (yield* roundingErrors(problem, known, samples, kind)) ?? {};
  const rounding = Object.fromEntries(
    Object.entries(found).map(([name, estimate]) => {
      const role = name as Role;
      const row = problem.projectedFrom?.[role] ? longest[role] : undefined;
      if (row === undefined || norms[role] === undefined) return [name, estimate];
      return [
        name,
        throughInputs(estimate, (row * Math.sqrt(samples.squares[role]!)) / norms[role]),
      ];
    }),
  );
  const errors = drawErrors(problem, sums, norms, {
    ...{ ...measurements, rounding, scale: plan.scale, all: drawnBlocks(problem, plan) },
  });
  return { ...sums, errors, loss: problem.objective.kind === 'target' ? loss : null };
}

/**
 * Rows are rounded apart from each other: |X^T e| is then at most about |e| times the longest row of X.
 *
 * @param factor that over |X^T dQ|, times |dQ|.
 */
function throughInputs(estimate: ErrorEstimate, factor: number): ErrorEstimate {
  const { relative, upper, standard_error } = estimate;
  return {
    ...estimate,
    relative: factor * relative,
    upper: factor * upper,
    standard_error: factor * standard_error,
  };
}
