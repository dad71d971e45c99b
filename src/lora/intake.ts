/** Tensors of a request: memory is set aside while their bytes still wait to be decoded. */
import type { EncodedTensor } from '../tensor/encoded.js';
import { allocateTensor, type Tensor } from '../tensor/tensor.js';

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

  /** @param shape as the kernels want it; same number of elements as on the wire. */
  take(pointer: string, encoded: EncodedTensor, shape: readonly number[]): Tensor {
    const tensor = allocateTensor(encoded.dtype, shape);
    this.pending.push({
      pointer,
      dtype: encoded.dtype,
      bytes: encoded.bytes,
      target: tensor.data,
    });
    return tensor;
  }
}
