import type { Dtype } from './dtype.js';

/** A tensor as it stands on the wire: little endian, row-major, not yet aligned or widened. */
export interface EncodedTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /**
   * product(shape) x ITEM_SIZE bytes. A view of the body at any offset, or own memory; on arrival it
   * is backed by a SharedArrayBuffer whenever the body was, or when the tensor was text in the body.
   */
  readonly bytes: Uint8Array;
}

class Encoded implements EncodedTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;

  constructor(dtype: Dtype, shape: readonly number[], bytes: Uint8Array) {
    this.dtype = dtype;
    this.shape = shape;
    this.bytes = bytes;
  }
}

/** The only maker of encoded tensors: what it returns, and nothing else, is one to `isEncodedTensor`. */
export function encodedTensor(
  dtype: Dtype,
  shape: readonly number[],
  bytes: Uint8Array,
): EncodedTensor {
  return new Encoded(dtype, shape, bytes);
}

export function isEncodedTensor(value: unknown): value is EncodedTensor {
  return value instanceof Encoded;
}
