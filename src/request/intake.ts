/** Tensors of a request: memory is set aside while their bytes still wait to be decoded. */
import { isEncodedTensor } from '../../workers/tensor/encoded.js';
import type { Lease } from '../../workers/tensor/shared-memory.js';
import { elementCount, type GivenTensor, type Tensor } from '../../workers/tensor/tensor.js';

/** One tensor to decode, from bytes of the body into its aligned place. */
export interface PendingTensor {
  /** RFC 6901 pointer of the tensor in the body. */
  readonly pointer: string;
  readonly dtype: Tensor['dtype'];
  readonly bytes: Uint8Array;
  readonly target: Tensor['data'];
}

export class Intake {
  readonly pending: PendingTensor[] = [];

  constructor(private readonly memory: Lease) {}

  /** @param shape as the kernels want it; same number of elements as it was given with. */
  take(pointer: string, given: GivenTensor, shape: readonly number[]): Tensor {
    // A tensor of the store is decoded already, and is shared: kernels only read their inputs.
    if (!isEncodedTensor(given)) return { ...given, shape };
    const { dtype, bytes } = given;
    const count = elementCount(shape);
    const data = dtype === 'float64' ? this.memory.float64(count) : this.memory.float32(count);
    this.pending.push({ pointer, dtype, bytes, target: data });
    return { dtype, shape, data };
  }
}
