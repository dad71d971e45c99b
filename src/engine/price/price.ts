/**
 * What a request will take, told from its shapes alone, before anything is allocated for it: an upper
 * limit of its memory and an estimate of its time. One function for all work, so that nothing is let in
 * unpriced.
 */

import { exactWork } from '../../../workers/kernels/exact/cost.js';
import { projectionFlops } from '../../../workers/kernels/flops.js';
import { referenceFlops } from '../../../workers/kernels/reference/cost.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  PROJECTIONS,
} from '../../../workers/problem.js';
import { elementCount, type Tensor, wireBytes } from '../../../workers/tensor/tensor.js';
import { Problem } from '../../errors.js';
import type { PendingTensor } from '../../request/intake.js';
import { kernelsOf } from '../../solver/choose.js';
import { type ChooseOptions, needsOf } from '../../solver/choose-low-rank.js';
import type { AnswerForm } from '../messages.js';
import type { Work } from '../work.js';
import {
  copiedBytes,
  exactBytes,
  lowRankBytes,
  MOST_FEATURES,
  rankOf,
  referenceBytes,
  sampledBytes,
} from './memory.js';

export interface Price {
  /** Memory beside the body and the tensors of the store, at most. */
  readonly bytes: number;
  /** Seconds of one worker that does nothing else. */
  readonly seconds: number;
  /** Bytes that stay until the answer is read: its body, or the tensor on its way into the store. */
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
/** The plan of one head: its trials, and algebra that grows with the cube of the width. */
const PLAN_SECONDS = 0.005;
const PLAN_CUBE_SECONDS = 4e-8;
/** What features, exponentials and copies of a row cost, in flops. */
const ROW_FLOPS = 60_000;

/** What the plan and the run of sampled take at most, as a share of exact. */
const SAMPLED_SHARE = 0.6;

/** Messages, maps of the answer, buffers of the stages, and some blocks of shared memory that are used in small part. */
const BASE_BYTES = 2 ** 21;
const HEAD_BYTES = 4096;
/** What an answer says of one head: its norms, in JSON. */
const VERDICT_BYTES = 360;
/** Sums that error figures keep for each number of an adapter's gradient, in float64; of long tensors they look at some rows. */
const ERROR_COPIES = 10;
/** Numbers of one float32 tensor in JSON lists take so many bytes at most, with their comma. */
const LISTED_BYTES = 16;

type Layer = AttentionLayer & Partial<AttentionProblem>;

export function priceOf(work: Work, form: AnswerForm | null): Price {
  switch (work.kind) {
    case 'keep': {
      const { shape, dtype, bytes } = work.encoded;
      const kept = elementCount(shape) * (dtype === 'float64' ? 8 : 4);
      return { bytes: BASE_BYTES + kept, seconds: bytes.length / 4e8, answerBytes: kept };
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
  /** Work of the exact kernel; 0: it does not run. */
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
  const { outputsDtype } = options.encode;
  const answer = wanted.answer.map(({ shape, dtype }) => {
    return { shape, dtype: outputsDtype === 'same' ? dtype : outputsDtype };
  });
  const results = numbersOf(answer);
  const errors = wanted.gradients ? 8 * ERROR_COPIES * numbersOf(adaptersOf(layer)) : 0;
  let kernelBytes = copiedBytes(layer);
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
  const float64Bytes = referenceBytes(layer, wanted.gradients);
  return finished(
    BASE_BYTES +
      batch * heads * HEAD_BYTES +
      decoded +
      8 * results +
      errors +
      Math.max(kernelBytes, float64Bytes),
    seconds,
    answer,
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
  const numbers = numbersOf(answer);
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

const numbersOf = (tensors: readonly Shaped[]) =>
  tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);

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

function lowRankSeconds(layer: Layer, { rates, features }: ChooseOptions, runs: boolean): number {
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const width = Math.max(headDim, valueDim);
  const rows = batch * heads * (queryLength + keyLength);
  const ranks = PROJECTIONS.reduce((sum, name) => sum + rankOf(layer.projections[name]), 0);
  const plan = batch * heads * (PLAN_SECONDS + PLAN_CUBE_SECONDS * width ** 3);
  const chain = rows * (4 * (features ?? MOST_FEATURES / 4) * (2 * width + ranks) + ROW_FLOPS);
  const flops = projectionFlops(layer) + (runs ? chain : (rows * ROW_FLOPS) / 4);
  return plan + flops / rates.lowRank;
}
