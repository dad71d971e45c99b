/** Results become bytes of the dtype that they are answered in. */
import type { Dtype } from '../src/tensor/dtype.js';
import { ITEM_SIZE } from '../src/tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../src/tensor/encoded.js';
import { narrowTensor } from '../src/tensor/narrow.js';
import type { Job, Task } from './kernels/job.js';

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

/** All tensors in one task: results are small, or few. */
export function* encodeJob(results: readonly Outgoing[]): Job<EncodedTensor[], EncodeTask> {
  const tensors = results.map((result) => {
    const bytes = new SharedArrayBuffer(result.data.length * ITEM_SIZE[result.dtype]);
    return { ...result, target: new Uint8Array(bytes) };
  });
  if (tensors.length > 0) yield { name: 'encode', tasks: [{ kernel: 'encode', tensors }] };
  return results.map(({ dtype, shape }, k) => encodedTensor(dtype, shape, tensors[k].target));
}
