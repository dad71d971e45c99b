/**
 * A dense tensor in memory that every worker thread can see.
 *
 * float16 and bfloat16 are widened to float32 on arrival; `dtype` remembers what the client sent, so
 * that the answer can go back in the same type.
 */
import type { Dtype } from './dtype.js';

export interface Tensor {
  readonly dtype: Dtype;
  /** Row-major (C order). */
  readonly shape: readonly number[];
  /** Backed by a SharedArrayBuffer, length = product of the shape. */
  readonly data: Float32Array | Float64Array;
}
