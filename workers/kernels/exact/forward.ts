/**
 * The attention output alone, exact up to float32 rounding: the stages of the gradient without its
 * backward half. Rows are sampled and computed again in float64 to measure the rounding error.
 */

import { type Job, type LargeTask, parts } from '../../job.js';
import type { AttentionLayer } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { makePlan, makeWorkspace, wavesOf } from '../attention/plan.js';
import type { AttendTask } from '../attention/task.js';
import type { ErrorEstimate } from '../estimate/estimate.js';
import { exactOutputs } from '../estimate/exact-rows.js';
import { InputPasses } from '../estimate/input-passes.js';
import { type RowError, rowErrorEstimate } from '../estimate/row-error.js';
import type { RowOfHead } from '../estimate/row-of-head.js';
import { ROTATED_UNITS, spreadRows } from '../estimate/rows.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import type { BlocksTask } from '../parts/blocks.js';
import { type Cut, cutProblem } from '../parts/cut.js';
import { joinForward, placed } from '../parts/join.js';
import { takeParts } from '../parts/take.js';
import { type ForwardResult, sharedFloat32 } from '../result.js';
import { exactWork } from './cost.js';
import { logitError } from './error/estimate.js';
import { largestLogit } from './error/logits.js';
import type { ProjectionNorms, ProjectTask } from './project.js';
import { type SeveralTask, wholeStage } from './tasks.js';
import { attendWave, composedNorms } from './wave.js';

/** Rows to compute again: one costs about four passes over the inputs. */
const ROWS_SAMPLED = 32;

interface ExactForwardResult extends ForwardResult {
  readonly attentionOutput: Float32Array;
  readonly error: ErrorEstimate;
}

/** An output before its error is known. */
interface ForwardSums extends ForwardResult {
  readonly attentionOutput: Float32Array;
  /** Its squared norm. */
  readonly square: number;
  /** Largest logit that the longest queries and keys can have. */
  readonly logit: number;
}

/** A part of a layer, a layer by itself. It may run on another machine. */
export interface ForwardPart extends LargeTask<ForwardSums> {
  readonly kernel: 'exact';
  readonly step: 'forward';
  readonly layer: AttentionLayer;
}

interface ForwardSampleTask {
  readonly kernel: 'exact';
  readonly step: 'forward_sample';
  readonly layer: AttentionLayer;
  readonly attentionOutput: Float32Array;
  /** Rows of one batch item. */
  readonly rows: readonly RowOfHead[];
}

/** All of a layer that is too small to be shared. */
interface WholeForwardTask {
  readonly kernel: 'exact';
  readonly step: 'whole_forward';
  readonly layer: AttentionLayer;
  readonly seed: number;
}

export type ForwardTask =
  | ProjectTask
  | SeveralTask
  | AttendTask
  | ForwardSampleTask
  | WholeForwardTask
  | ForwardPart
  | BlocksTask;

const planOf = (layer: AttentionLayer) =>
  makePlan({ ...layer, objective: null }, { attentionOutput: true });

/** The same result in one task or in many, as with the gradient. */
export function* exactForwardJob(
  layer: AttentionLayer,
  { seed }: { readonly seed: number },
): Job<ExactForwardResult, ForwardTask> {
  const task: WholeForwardTask = { kernel: 'exact', step: 'whole_forward', layer, seed };
  const whole = wholeStage(planOf(layer), task);
  if (!whole) return yield* forwardParts(layer, seed);
  return (yield whole)[0] as ExactForwardResult;
}

const workOf = (layer: AttentionLayer) =>
  exactWork(layer, { output: true, gradients: false, inputGradients: false });

/** The cut follows from the layer alone, as with the gradient. */
export function* forwardParts(
  layer: AttentionLayer,
  seed: number,
  cuts: readonly Cut[] = cutProblem(
    layer,
    { gradients: false, inputGradients: false },
    workOf(layer),
  ),
): Job<ExactForwardResult, ForwardTask> {
  const taken = yield* takeParts(layer, cuts);
  const tasks = taken.map(
    (part): ForwardPart => ({ kernel: 'exact', step: 'forward', layer: part, flops: workOf(part) }),
  );
  const sums = yield* parts(tasks, forwardOf);
  if (sums.length === 1) return yield* measured(layer, seed, sums[0]!);
  const joined = yield* joinForward(layer, placed(layer, cuts, sums), sharedFloat32);
  const square = sums.reduce((sum, part) => sum + part.square, 0);
  const logit = sums.reduce((largest, part) => Math.max(largest, part.logit), 0);
  return yield* measured(layer, seed, { ...joined, square, logit });
}

export const forwardOf = ({ layer }: ForwardPart) => forwardSums(layer);

/** All of a layer without a cut. */
export function* forwardStages(
  layer: AttentionLayer,
  seed: number,
): Job<ExactForwardResult, ProjectTask | SeveralTask | AttendTask | ForwardSampleTask> {
  return yield* measured(layer, seed, yield* forwardSums(layer));
}

function* forwardSums(
  layer: AttentionLayer,
): Job<ForwardSums, ProjectTask | SeveralTask | AttendTask> {
  const { batch, queryLength, heads, valueDim } = layer.dims;
  const plan = planOf(layer);
  const attentionOutput = sharedFloat32(batch * queryLength * heads * valueDim);
  const norms: ProjectionNorms[] = [];
  let [square, logit] = [0, 0];
  const memory = new Lease();
  try {
    const workspace = makeWorkspace(plan, memory);
    for (let wave = 0; wave < wavesOf(plan); wave++) {
      const attended = yield* attendWave(plan, workspace, attentionOutput, wave);
      norms.push(...attended.norms);
      square += 2 * attended.loss;
      logit = Math.max(logit, largestLogit(plan, workspace));
    }
  } finally {
    memory.end();
  }
  return { attentionOutput, headNorms: composedNorms(norms, layer), square, logit };
}

/** Adds the error figure to an output: sampled rows measure its error, the largest logit bounds what other rows may hide. */
function* measured(
  layer: AttentionLayer,
  seed: number,
  { square, logit, ...result }: ForwardSums,
): Job<ExactForwardResult, ForwardSampleTask> {
  const { batch, queryLength, heads } = layer.dims;
  const tasks = sampleTasks(layer, result.attentionOutput, seed);
  const errors = (yield { name: 'sample', tasks }) as RowError[][];
  const all = batch * heads * queryLength;
  const error = rowErrorEstimate(errors.flat(), all, square);
  const hidden = square > 0 && error.rows_sampled < all ? logitError(logit) : 0;
  return { ...result, error: { ...error, upper: error.upper + hidden } };
}

/** Rows drawn evenly from all heads, or from some; those of one batch item share a pass over its inputs. */
function sampleTasks(
  layer: AttentionLayer,
  attentionOutput: Float32Array,
  seed: number,
): ForwardSampleTask[] {
  const { batch, heads, keyValueHeads, queryLength } = layer.dims;
  const group = heads / keyValueHeads;
  const headGroups = batch * keyValueHeads;
  const drawn = spreadRows(headGroups, layer.rotary ? ROTATED_UNITS : headGroups, seed);
  const rows = spreadRows(drawn.length * group * queryLength, ROWS_SAMPLED, seed + 1).map(
    (index): RowOfHead => {
      const place = Math.floor(index / queryLength);
      const head = drawn[Math.floor(place / group)]! * group + (place % group);
      return {
        batchItem: Math.floor(head / heads),
        head: head % heads,
        shared: Math.floor((head % heads) / group),
        row: index % queryLength,
      };
    },
  );
  return Array.from({ length: batch }, (_, item) => rows.filter((row) => row.batchItem === item))
    .filter((mine) => mine.length > 0)
    .map((mine) => ({
      ...{ kernel: 'exact', step: 'forward_sample', layer, attentionOutput, rows: mine },
    }));
}

/** How far each row of the output is from the same row in float64. */
export function runForwardSample(
  { layer, attentionOutput, rows }: ForwardSampleTask,
  wasm: Wasm,
  checkpoint: () => void,
): RowError[] {
  const { queryLength, heads, valueDim } = layer.dims;
  wasm.reset();
  const exact = exactOutputs(layer, rows, new InputPasses(wasm, checkpoint));
  return rows.map(({ batchItem, head, row }, k) => {
    const at = ((batchItem * queryLength + row) * heads + head) * valueDim;
    return slice(exact, k, valueDim).reduce(
      (sum, o, c) => sum + (o - attentionOutput[at + c]!) ** 2,
      0,
    );
  });
}
