/** Tensors of a request: their shapes are known while their bytes still wait to be decoded. */
import { isEncodedTensor } from '../../workers/tensor/encoded.js';
import type { GivenTensor, Tensor } from '../../workers/tensor/tensor.js';

/** One tensor to decode from bytes of the body. */
export interface PendingTensor {
  /** RFC 6901 pointer of the tensor in the body. */
  readonly pointer: string;
  readonly bytes: Uint8Array;
  /** As the client gave it; the tensor's own may have a batch dimension more. */
  readonly givenShape: readonly number[];
  /** Its data is set when it is decoded: nothing is allocated for a request that is not admitted. */
  readonly tensor: Tensor;
}

const NOTHING = new Float32Array(0);

export class Intake {
  readonly pending: PendingTensor[] = [];

  /** @param shape as the kernels want it; same number of elements as it was given with. */
  take(pointer: string, given: GivenTensor, shape: readonly number[]): Tensor {
    // A tensor of the store is decoded already, and is shared: kernels only read their inputs.
    if (!isEncodedTensor(given)) return { ...given, shape };
    const { dtype, bytes } = given;
    const tensor: Tensor = { dtype, shape, data: NOTHING };
    this.pending.push({ pointer, bytes, givenShape: given.shape, tensor });
    return tensor;
  }
}
