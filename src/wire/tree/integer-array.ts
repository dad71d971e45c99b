/** Arrays of integers, as numpy and torch hold the lengths of sequences: read as float64 tensors. */
import { type EncodedTensor, encodedTensor } from '../../../workers/tensor/encoded.js';
import { elementCount } from '../../../workers/tensor/tensor.js';
import { NUMPY_SCALARS, type NumpyScalar } from './numpy-scalar.js';

/** They are converted here and now; a tensor with more elements is no list of lengths. */
const MOST = 65_536;
/** torch: 'int64', 'torch.int64'. numpy: '<i8', '|u1', 'i8'. safetensors: 'I64'. */
const TORCH = /^(?:torch\.)?(u?)int(8|16|32|64)$/;
const NUMPY = /^[<=|]?([iu])([1248])$/;
const SAFETENSORS = /^([IU])(8|16|32|64)$/;

/** Where lists of lists of integers stand; as lists they may be of different lengths. */
export const RAGGED: ReadonlySet<string> = new Set(['/sequence_lengths']);

/** Weights and states have more dimensions than lists, and integers there are a mistake. */
export function isFewIntegers(shape: readonly number[], pointer: string): boolean {
  const dimensions = RAGGED.has(pointer) ? 2 : 1;
  return shape.length > 0 && shape.length <= dimensions && elementCount(shape) <= MOST;
}

/** null: not the name of a little-endian integer type. */
export function integerType(name: unknown): NumpyScalar | null {
  if (typeof name !== 'string') return null;
  const torch = TORCH.exec(name);
  if (torch) return scalar(torch[1] || 'i', Number(torch[2]) / 8);
  const safetensors = SAFETENSORS.exec(name);
  if (safetensors) return scalar(safetensors[1].toLowerCase(), Number(safetensors[2]) / 8);
  const numpy = NUMPY.exec(name);
  return numpy ? scalar(numpy[1], Number(numpy[2])) : null;
}

function scalar(sign: string, size: number): NumpyScalar | null {
  return NUMPY_SCALARS.get(`${size === 1 ? '|' : '<'}${sign}${size}`) ?? null;
}

/** @param bytes elementCount(shape) x type.size of them. */
export function readIntegers(
  type: NumpyScalar,
  shape: readonly number[],
  bytes: Uint8Array,
): EncodedTensor {
  const values = new Float64Array(new SharedArrayBuffer(8 * elementCount(shape)));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let k = 0; k < values.length; k++) values[k] = Number(type.read(view, k * type.size));
  return encodedTensor('float64', shape, new Uint8Array(values.buffer));
}
