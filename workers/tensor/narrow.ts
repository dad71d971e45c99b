/** The way back: from numbers in memory to bytes in the element type of the client. */
import type { Dtype } from './dtype.js';
import { type EncodedTensor, encodedTensor } from './encoded.js';
import { float16Values, narrowBfloat16, narrowFloat16 } from './half.js';

/**
 * `data` (row-major, product of the shape elements) rounded to `dtype`, ties to even; what is too
 * large for the type becomes infinity. When no conversion is needed the bytes are a view of `data`.
 */
export function narrowTensor(
  data: Float32Array | Float64Array,
  dtype: Dtype,
  shape: readonly number[],
): EncodedTensor {
  return encodedTensor(dtype, shape, narrowBytes(data, dtype));
}

function narrowBytes(data: Float32Array | Float64Array, dtype: Dtype): Uint8Array {
  if (dtype === 'float32')
    return bytesOf(data instanceof Float32Array ? data : new Float32Array(data));
  if (dtype === 'float64')
    return bytesOf(data instanceof Float64Array ? data : new Float64Array(data));
  const narrow = dtype === 'float16' ? narrowFloat16 : narrowBfloat16;
  const bits = new Uint16Array(data.length);
  for (let i = 0; i < data.length; i++) bits[i] = narrow(data[i]);
  return bytesOf(bits);
}

/** An encoded tensor as float32 (float64 stays), for formats that have no 16-bit floats. */
export function widenEncoded(tensor: EncodedTensor): Float32Array | Float64Array {
  const { bytes, dtype } = tensor;
  const aligned = new Uint8Array(bytes).buffer;
  if (dtype === 'float64') return new Float64Array(aligned);
  if (dtype === 'float32') return new Float32Array(aligned);
  const bits = new Uint16Array(aligned);
  if (dtype === 'float16') return Float32Array.from(bits, (half) => float16Values()[half]);
  return new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer);
}

function bytesOf(data: Float32Array | Float64Array | Uint16Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
