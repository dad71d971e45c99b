/**
 * What a request will take, told from its shapes alone, before anything is allocated for it: an upper
 * limit of its memory and an estimate of its time. One function for all work, so that nothing is let in
 * unpriced.
 */

import { makePlan, makeWorkspace } from '../../workers/kernels/attention/plan.js';
import { exactWork } from '../../workers/kernels/exact/cost.js';
import { projectionFlops } from '../../workers/kernels/flops.js';
import { referenceFlops } from '../../workers/kernels/reference/cost.js';
import { makeWorkspace as makeReferenceWorkspace } from '../../workers/kernels/reference/workspace.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
  PROJECTIONS,
} from '../../workers/problem.js';
import type { Lease } from '../../workers/tensor/shared-memory.js';
import { elementCount, type Tensor, wireBytes } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../request/intake.js';
import { kernelsOf } from '../solver/choose.js';
import { type ChooseOptions, needsOf } from '../solver/choose-low-rank.js';
import type { AnswerForm } from './messages.js';
import type { Work } from './work.js';

export interface Price {
  /** Memory beside the body and the tensors of the store, at most. */
  readonly bytes: number;
  /** Of one worker that has nothing else to do. */
  readonly seconds: number;
  /** Of the body of the answer. */
  readonly answerBytes: number;
}

/** Query heads of all batch items: each costs a plan and messages, however short its sequence is. */
export const MAX_HEADS = 65_536;

/** Flops per second of the float64 kernel, which is written to be read. */
const REFERENCE_RATE = 4e8;
/** Rows and keys are taken in blocks of these sizes, full or not. */
const ROW_BLOCK = 8;
const KEY_BLOCK = 8;
/** Tasks and messages of one head. */
const HEAD_SECONDS = 2e-4;
/** Of the plan of one head: its trials, and algebra that grows with the cube of the width. */
const PLAN_SECONDS = 0.005;
const PLAN_CUBE_SECONDS = 4e-8;
/** Features that low-rank takes at most when it is asked for without a number. */
const MOST_FEATURES = 1024;
/** What features, exponentials and copies of a row cost, in flops. */
const ROW_FLOPS = 60_000;

/** What the plan and the run of sampled take at most, as a share of exact; and what the plan of a head keeps. */
const SAMPLED_SHARE = 0.6;
const SAMPLED_PLAN_BYTES = 2 ** 18;

/** Messages, maps of the answer, buffers of the stages. */
const BASE_BYTES = 2 ** 20;
const HEAD_BYTES = 4096;
/** What an answer says of one head: its norms, in JSON. */
const VERDICT_BYTES = 360;
/** A plan of low-rank: bases, trials and drawn features of one head. */
const PLAN_BYTES = 2 ** 18;
/** Sums that error figures keep for each number of a gradient, in float64. */
const ERROR_COPIES = 10;
/** Tokens that are contracted together at most, and tasks of a contraction. */
const CONTRACT_TOKENS = 2048;
const CONTRACT_TASKS = 16;
/** Numbers of one float32 tensor in JSON lists take so many bytes at most, with their comma. */
const LISTED_BYTES = 16;

type Layer = AttentionLayer & Partial<AttentionProblem>;

export function priceOf(work: Work, form: AnswerForm | null): Price {
  switch (work.kind) {
    case 'keep': {
      const { shape, dtype, bytes } = work.encoded;
      const kept = elementCount(shape) * (dtype === 'float64' ? 8 : 4);
      return { bytes: BASE_BYTES + kept, seconds: bytes.length / 4e8, answerBytes: 0 };
    }
    case 'give':
      return finished(BASE_BYTES, wireBytes(work.tensor) / 1e9, [work.tensor], 0, form);
    case 'forward':
      return layerPrice(work.layer, work.pending, work.options, form, {
        flops: exactWork(work.layer, { output: true, gradients: false, inputGradients: false }),
        answer: [outputOf(work.layer)],
        gradients: false,
      });
    case 'plan':
      return layerPrice(work.problem, work.pending, work.options, form, {
        flops: 0,
        answer: [],
        gradients: false,
      });
    case 'gradient': {
      const { problem, options } = work;
      const output = options.attentionOutput;
      const inputGradients = options.inputGradients !== undefined;
      return layerPrice(problem, work.pending, options, form, {
        flops: exactWork(problem, { output, gradients: true, inputGradients }),
        answer: [
          ...(options.encode.gradients ? adaptersOf(problem) : []),
          ...(output ? [outputOf(problem)] : []),
          ...(options.inputGradients ? new Set(Object.values(problem.inputs)) : []),
        ],
        gradients: true,
      });
    }
  }
}

interface Wanted {
  /** Of the exact kernel; 0: it does not run. */
  readonly flops: number;
  readonly answer: readonly Shaped[];
  readonly gradients: boolean;
}

type Shaped = Pick<Tensor, 'shape' | 'dtype'>;

function layerPrice(
  layer: Layer,
  pending: readonly PendingTensor[],
  options: ChooseOptions,
  form: AnswerForm | null,
  wanted: Wanted,
): Price {
  const { batch, heads } = layer.dims;
  if (batch * heads > MAX_HEADS) {
    throw new Problem(
      'limit-exceeded',
      `There are ${batch} batch items of ${heads} heads, ${batch * heads} in all; at most ${MAX_HEADS} are taken.`,
      { pointer: '', limit: MAX_HEADS, actual: batch * heads },
    );
  }
  const kernels = kernelsOf(layer, options, wanted.flops === 0);
  const decoded = pending.reduce((sum, { tensor }) => sum + memoryOf(tensor), 0);
  const results = wanted.answer.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const errors = wanted.gradients ? 8 * ERROR_COPIES * results : 0;
  let kernelBytes = 0;
  let seconds = batch * heads * HEAD_SECONDS + decoded / 1e9;
  if (kernels.exact && wanted.flops > 0) {
    kernelBytes += exactBytes(layer, options);
    seconds += (wanted.flops + paddingFlops(layer)) / options.rates.exact;
  }
  if (kernels.lowRank) {
    kernelBytes += lowRankBytes(layer, options);
    seconds += lowRankSeconds(layer, options, wanted.flops > 0);
  }
  if (kernels.sampled) {
    // A first answer waits, encoded too, while a second run tops it up.
    kernelBytes += sampledBytes(layer, options) + 8 * results;
    seconds += (SAMPLED_SHARE * exactWork(layer, needsOf(layer, options))) / options.rates.exact;
  }
  if (kernels.reference) {
    seconds += (wanted.flops > 0 ? referenceFlops(layer) : projectionFlops(layer)) / REFERENCE_RATE;
  }
  // Whatever overflows float32 is computed again in float64, when the memory of the others is free.
  const float64Bytes =
    tally((memory) => makeReferenceWorkspace(layer, wanted.gradients, memory)) + copiedBytes(layer);
  return finished(
    BASE_BYTES +
      batch * heads * HEAD_BYTES +
      decoded +
      8 * results +
      errors +
      Math.max(kernelBytes, float64Bytes),
    seconds,
    wanted.answer,
    batch * heads,
    form,
  );
}

function finished(
  bytes: number,
  seconds: number,
  answer: readonly Shaped[],
  verdicts: number,
  form: AnswerForm | null,
): Price {
  const wire = answer.reduce(
    (sum, { shape, dtype }) => sum + elementCount(shape) * itemSize(dtype),
    0,
  );
  const numbers = answer.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const tensorBytes = !form?.json
    ? (form?.dialect === 'numpy' ? 2 : 1) * wire
    : form.dialect === 'list'
      ? LISTED_BYTES * numbers
      : Math.ceil((4 * wire) / 3);
  const answerBytes = tensorBytes + VERDICT_BYTES * verdicts;
  // A JSON text exists twice, as text and as bytes, beside the lists that it is made from.
  const copies = form?.json ? 4 : 1;
  return {
    bytes: bytes + wire + copies * answerBytes,
    seconds: seconds + answerBytes / (form?.json ? 2e7 : 1e9),
    answerBytes,
  };
}

const itemSize = (dtype: Tensor['dtype']) =>
  dtype === 'float64' ? 8 : dtype === 'float32' ? 4 : 2;

function memoryOf({ shape, dtype }: Shaped): number {
  return elementCount(shape) * (dtype === 'float64' ? 8 : 4);
}

function outputOf({ dims, inputs, objective }: Layer): Shaped {
  const shape = [dims.batch, dims.queryLength, dims.heads * dims.valueDim];
  return { shape, dtype: (objective?.tensor ?? inputs.query).dtype };
}

function adaptersOf({ projections }: Layer): Shaped[] {
  return PROJECTIONS.flatMap((name) => {
    const { adapter } = projections[name];
    return adapter ? [adapter.A, adapter.B] : [];
  });
}

/** Padding of blocks. */
function paddingFlops(layer: Layer): number {
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const up = (n: number, to: number) => Math.ceil(n / to) * to;
  const padded =
    batch * up(queryLength, ROW_BLOCK) * up(keyLength, KEY_BLOCK) - batch * queryLength * keyLength;
  return heads * padded * 4 * (headDim + valueDim);
}

/** Counts what is asked of it and hands out nothing: what allocates is what says how much. */
function tally(run: (memory: Lease) => void): number {
  let bytes = 0;
  const count = (size: number) => (n: number) => {
    bytes += size * n;
    return new Float64Array(0);
  };
  run({ int32: count(4), float32: count(4), float64: count(8) } as unknown as Lease);
  return bytes;
}

/** The workspace of a wave, the sums of its contractions, and what each worker has in its own memory. */
function exactBytes(layer: Layer, { attentionOutput, inputGradients }: ChooseOptions): number {
  const problem = { ...layer, objective: layer.objective ?? null };
  const plan = makePlan(problem, { attentionOutput, inputGradients });
  const workspace = tally((memory) => makeWorkspace(plan, memory));
  const { batch, queryLength, keyLength, heads, headDim, valueDim } = layer.dims;
  const tokens = Math.max(queryLength, keyLength);
  const parts = CONTRACT_TASKS + batch + Math.ceil((batch * tokens) / CONTRACT_TOKENS);
  const ranks = PROJECTIONS.map((name) => layer.projections[name].adapter?.rank ?? 0);
  const inputs = PROJECTIONS.map((name) => layer.projections[name].inFeatures);
  const widest = Math.max(...inputs);
  const rank = Math.max(...ranks) + 8;
  const partBytes =
    4 * (ranks.reduce((sum, r) => sum + r + 8, 0) * (widest + heads * (headDim + valueDim)));
  const rows = 8 * (queryLength + keyLength) * (headDim + valueDim + rank);
  const worker =
    4 * (widest * (rank + 512 + heads * (headDim + valueDim)) + 4 * rank * (headDim + valueDim));
  return workspace + parts * partBytes + 4 * (rows + worker) + copiedBytes(layer);
}

/** Of the heads that a part of a large problem takes, and of its rows in what the parts answer. */
function copiedBytes(layer: Layer): number {
  const { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim } = layer.dims;
  const outputs = queryLength * heads * valueDim;
  const keys = keyLength * keyValueHeads * (headDim + valueDim);
  const states = hasAttentionStates(layer) ? 2 * (queryLength * heads * headDim + keys) : 0;
  return 8 * batch * (2 * outputs + states);
}

function lowRankBytes(layer: Layer, { features }: ChooseOptions): number {
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const width = Math.max(headDim, valueDim) + 8;
  const m = features ?? MOST_FEATURES;
  const inputs = PROJECTIONS.reduce((sum, name) => sum + layer.projections[name].inFeatures, 0);
  const ranks = PROJECTIONS.reduce(
    (sum, name) => sum + (layer.projections[name].adapter?.rank ?? 0),
    0,
  );
  const plan = PLAN_BYTES + 8 * (16 * width * width + width * (inputs + ranks));
  const segments = Math.ceil(Math.max(queryLength, keyLength) / 4096) + 1;
  const sums = 8 * segments * m * (4 * width + 2 * ranks);
  const rows = 16 * (queryLength + keyLength) * (width + ranks);
  return batch * heads * (plan + 8 * (queryLength + keyLength)) + 8 * (sums + rows);
}

/** The workspace of the exact kernel once more, coordinates and narrowed inputs, and the plans of its heads. */
function sampledBytes(layer: Layer, options: ChooseOptions): number {
  const { batch, heads, queryLength, keyLength } = layer.dims;
  const rows = batch * heads * (queryLength + keyLength);
  return exactBytes(layer, options) + 4 * 100 * rows + batch * heads * SAMPLED_PLAN_BYTES;
}

function lowRankSeconds(layer: Layer, { rates, features }: ChooseOptions, runs: boolean): number {
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const width = Math.max(headDim, valueDim);
  const rows = batch * heads * (queryLength + keyLength);
  const ranks = PROJECTIONS.reduce(
    (sum, name) => sum + (layer.projections[name].adapter?.rank ?? 0),
    0,
  );
  const plan = batch * heads * (PLAN_SECONDS + PLAN_CUBE_SECONDS * width ** 3);
  const chain = rows * (4 * (features ?? MOST_FEATURES / 4) * (2 * width + ranks) + ROW_FLOPS);
  const flops = projectionFlops(layer) + (runs ? chain : (rows * ROW_FLOPS) / 4);
  return plan + flops / rates.lowRank;
}
