/** Tensors in memory and as they travel. */
import type { Dtype } from '../../../workers/tensor/dtype.js';
import { encodedTensor } from '../../../workers/tensor/encoded.js';
import { narrowTensor, widenEncoded } from '../../../workers/tensor/narrow.js';
import type { KeptTensor } from './kept-tensor.js';

/** A dense tensor in memory. */
export interface Tensor {
  /** Type on the wire; float16 and bfloat16 are float32 in memory, and rounded on their way out. */
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Row-major (C order), as many elements as the product of the shape. */
  readonly data: Float32Array | Float64Array;
}

/** Without dtype a tensor travels as float32 or float64, as its data is. */
export type TensorInput = Omit<Tensor, 'dtype'> & Partial<Pick<Tensor, 'dtype'>>;

/** Numbers as lists of lists, read as float32. */
export type NestedList = readonly (number | NestedList)[];

/** What a request takes as a tensor. */
export type GivenTensor = TensorInput | KeptTensor | NestedList;

/** A tensor on the wire; little endian, row-major. */
export interface WireTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export function isTensor(value: object): value is TensorInput {
  return 'data' in value && 'shape' in value;
}

/** The bytes are a view of the data, unless they are rounded to 16 bits. */
export function toWire({ dtype, shape, data }: TensorInput): WireTensor {
  const type = dtype ?? (data instanceof Float64Array ? 'float64' : 'float32');
  return { dtype: type, shape, data: narrowTensor(data, type, shape).bytes };
}

/** float16 and bfloat16 are widened to float32. */
export function fromWire({ dtype, shape, data }: WireTensor): Tensor {
  return { dtype, shape, data: widenEncoded(encodedTensor(dtype, shape, data)) };
}
