/** Bytes of the body become aligned tensors: widened, and searched for NaN and infinity. */

import { type Cancelled, CancelledError, type Job, type Task } from '../job.js';
import { decodeTensor } from '../tensor/decode.js';
import type { Dtype } from '../tensor/dtype.js';

/** A run of elements of one tensor. */
interface DecodePart {
  /** RFC 6901 pointer of the tensor in the body. */
  readonly pointer: string;
  readonly dtype: Dtype;
  /** Little endian; any alignment. */
  readonly bytes: Uint8Array;
  readonly target: Float32Array | Float64Array;
  /** Index in the tensor of the first element of this part. */
  readonly offset: number;
}

export interface DecodeTask extends Task {
  readonly kernel: 'decode';
  readonly parts: readonly DecodePart[];
}

interface NotFinite {
  readonly pointer: string;
  /** Flat, row-major. */
  readonly index: number;
  readonly value: number;
}

/** @returns the first element that is NaN or infinite, or null. */
export function runDecodeTask(task: DecodeTask, cancelled: Cancelled): NotFinite | null {
  for (const { pointer, dtype, bytes, target, offset } of task.parts) {
    if (cancelled()) throw new CancelledError();
    const index = decodeTensor(bytes, dtype, target);
    if (index >= 0) return { pointer, index: offset + index, value: target[index] };
  }
  return null;
}

/** About a millisecond of work. */
const TASK_BYTES = 2 ** 21;
/** What is decoded here and now: the way to a worker would take longer. */
const SMALL_BYTES = 2 ** 17;

/** Decode tensors; small ones share a task, large ones are cut into several. */
export function* decodeJob(
  tensors: readonly Omit<DecodePart, 'offset'>[],
): Job<NotFinite | null, DecodeTask> {
  const tasks: DecodeTask[] = [];
  let parts: DecodePart[] = [];
  let filled = 0;
  const flush = () => {
    if (parts.length > 0) tasks.push({ kernel: 'decode', parts });
    parts = [];
    filled = 0;
  };
  for (const { pointer, dtype, bytes, target } of tensors) {
    const itemSize = bytes.length / target.length;
    const step = TASK_BYTES / itemSize;
    for (let offset = 0; offset < target.length; offset += step) {
      const end = Math.min(offset + step, target.length);
      parts.push({
        pointer,
        dtype,
        bytes: bytes.subarray(offset * itemSize, end * itemSize),
        target: target.subarray(offset, end),
        offset,
      });
      filled += (end - offset) * itemSize;
      if (filled >= TASK_BYTES) flush();
    }
  }
  if (tasks.length === 0 && filled <= SMALL_BYTES) {
    return runDecodeTask({ kernel: 'decode', parts }, () => false);
  }
  flush();
  const found = (yield { name: 'decode', tasks }) as (NotFinite | null)[];
  return found.find((hit) => hit !== null) ?? null;
}
