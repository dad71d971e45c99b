/** Results become bytes of the dtype that they are answered in. */

import type { Job, Task } from '../job.js';
import type { Dtype } from '../tensor/dtype.js';
import { ITEM_SIZE } from '../tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../tensor/encoded.js';
import { narrowTensor } from '../tensor/narrow.js';

/** A result on its way out. */
export interface Outgoing {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array;
}

export interface EncodeTask extends Task {
  readonly kernel: 'encode';
  readonly tensors: readonly (Outgoing & { readonly target: Uint8Array })[];
}

export function runEncodeTask(task: EncodeTask): void {
  for (const { data, dtype, shape, target } of task.tensors) {
    target.set(narrowTensor(data, dtype, shape).bytes);
  }
}

/** What is encoded here and now: the way to a worker would take longer. */
const SMALL_BYTES = 2 ** 17;

/** All tensors in one task: results are small, or few. */
export function* encodeJob(results: readonly Outgoing[]): Job<EncodedTensor[], EncodeTask> {
  const tensors = results.map((result) => {
    const bytes = new SharedArrayBuffer(result.data.length * ITEM_SIZE[result.dtype]);
    return { ...result, target: new Uint8Array(bytes) };
  });
  const task: EncodeTask = { kernel: 'encode', tensors };
  const bytes = tensors.reduce((sum, { target }) => sum + target.length, 0);
  if (bytes <= SMALL_BYTES) runEncodeTask(task);
  else yield { name: 'encode', tasks: [task] };
  return results.map(({ dtype, shape }, k) => encodedTensor(dtype, shape, tensors[k].target));
}
