/** Results become bytes of the dtype that they are answered in. */

import type { Job, Task } from '../job.js';
import { frobenius } from '../kernels/estimate/estimate.js';
import type { Dtype } from '../tensor/dtype.js';
import { ITEM_SIZE } from '../tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../tensor/encoded.js';
import { narrowTensor, widenEncoded } from '../tensor/narrow.js';

/** A result on its way out. */
export interface Outgoing {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array;
}

export interface EncodeTask extends Task {
  readonly kernel: 'encode';
  readonly tensors: readonly (Outgoing & {
    /** null: the bytes are sent as they lie in memory. */
    readonly target: Uint8Array | null;
  })[];
}

/** What rounding a result to its dtype did to it. */
export interface Narrowing {
  readonly dtype: Dtype;
  /**
   * Frobenius norm of what is sent minus what was computed, over that of what was computed; and what float32 lost before,
   * where it holds few digits of such small numbers.
   */
  readonly relative: number;
  /** Numbers that were finite and are beyond the dtype. */
  readonly infinite: number;
}

/** A result as it is sent. */
export interface Sent {
  readonly tensor: EncodedTensor;
  readonly narrowing: Narrowing;
}

export function runEncodeTask(task: EncodeTask): Narrowing[] {
  return task.tensors.map(({ target, ...outgoing }) => {
    const { tensor, narrowing } = narrowed(outgoing);
    target?.set(tensor.bytes);
    return narrowing;
  });
}

function narrowed({ data, dtype, shape }: Outgoing): Sent {
  const tensor = narrowTensor(data, dtype, shape);
  const { relative, infinite } = isSame(data, dtype)
    ? { relative: 0, infinite: 0 }
    : difference(data, widenEncoded(tensor));
  const lost = dtype === 'float64' ? 0 : underflow(data);
  return { tensor, narrowing: { dtype, relative: relative + lost, infinite } };
}

type Numbers = Float32Array | Float64Array;

const isSame = (data: Numbers, dtype: Dtype) =>
  dtype === (data instanceof Float64Array ? 'float64' : 'float32');

/** Below 2^-126 float32 knows multiples of this alone. */
const STEP = 2 ** -149;
/** Steps that an element may be off: it is a sum of many such numbers. */
const STEPS = 8192;
/** Beside a number as large as this no step counts. */
const LARGE = 2 ** -100;

/** Relative error of numbers so small that float32 held few digits of them on the way. */
function underflow(computed: Numbers): number {
  if (computed.some((x) => Math.abs(x) >= LARGE)) return 0;
  const norm = frobenius(computed);
  return norm > 0 ? (STEPS * STEP * Math.sqrt(computed.length)) / norm : 0;
}

function difference(computed: Numbers, sent: Numbers): Omit<Narrowing, 'dtype'> {
  let [largest, infinite] = [0, 0];
  for (let k = 0; k < computed.length; k++) {
    largest = Math.max(largest, Math.abs(computed[k]!));
    if (!Number.isFinite(sent[k]!)) infinite++;
  }
  if (largest === 0 || infinite > 0) return { relative: 0, infinite };
  let [whole, off] = [0, 0];
  for (let k = 0; k < computed.length; k++) {
    whole += (computed[k]! / largest) ** 2;
    off += ((sent[k]! - computed[k]!) / largest) ** 2;
  }
  return { relative: Math.sqrt(off / whole), infinite };
}

/** What is encoded here and now: the way to a worker would take longer. */
const SMALL_BYTES = 2 ** 17;
const WORD = 8;

/** All tensors in one task, and bytes that are not sent as they are in one block: results are small, or few. */
export function* encodeJob(results: readonly Outgoing[]): Job<Sent[], EncodeTask> {
  let bytes = 0;
  const places = results.map(({ data, dtype }) => {
    if (isSame(data, dtype) && data.buffer instanceof SharedArrayBuffer) return null;
    const place = { at: bytes, size: data.length * ITEM_SIZE[dtype] };
    // Aligned copies are the fast ones.
    bytes += WORD * Math.ceil(place.size / WORD);
    return place;
  });
  const all = results.reduce((sum, { data, dtype }) => sum + data.length * ITEM_SIZE[dtype], 0);
  if (all <= SMALL_BYTES) return results.map(narrowed);
  const memory = new SharedArrayBuffer(bytes);
  const tensors = results.map((result, k) => {
    const place = places[k];
    return { ...result, target: place ? new Uint8Array(memory, place.at, place.size) : null };
  });
  const [narrowings] = (yield { name: 'encode', tasks: [{ kernel: 'encode', tensors }] }) as [
    Narrowing[],
  ];
  return tensors.map(({ data, dtype, shape, target }, k) => ({
    tensor: target ? encodedTensor(dtype, shape, target) : narrowTensor(data, dtype, shape),
    narrowing: narrowings[k]!,
  }));
}
