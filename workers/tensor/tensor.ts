/**
 * A dense tensor in memory that every worker thread can see.
 *
 * float16 and bfloat16 are widened to float32 on arrival; `dtype` remembers what the client sent, so
 * that the answer can go back in the same type.
 */
import { type Dtype, ITEM_SIZE } from './dtype.js';
import type { EncodedTensor } from './encoded.js';

export type TensorData = Float32Array | Float64Array;

export interface Tensor {
  readonly dtype: Dtype;
  /** Row-major (C order). */
  readonly shape: readonly number[];
  /** Backed by a SharedArrayBuffer, length = product of the shape. */
  readonly data: TensorData;
}

/** A tensor of a request: bytes of the body, still to be decoded, or a tensor of the store. */
export type GivenTensor = EncodedTensor | Tensor;

/** Bytes that its data takes on the wire. */
export function wireBytes({ dtype, shape }: Pick<Tensor, 'dtype' | 'shape'>): number {
  return elementCount(shape) * ITEM_SIZE[dtype];
}

/** Number of elements, 1 for the empty shape of a scalar. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

/** A tensor of zeros: float64 data for float64, float32 data for every other dtype. */
export function allocateTensor(dtype: Dtype, shape: readonly number[]): Tensor {
  const count = elementCount(shape);
  const data =
    dtype === 'float64'
      ? new Float64Array(new SharedArrayBuffer(count * 8))
      : new Float32Array(new SharedArrayBuffer(count * 4));
  return { dtype, shape, data };
}
