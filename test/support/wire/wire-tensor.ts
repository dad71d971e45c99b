/**
 * Tensors as they stand on the wire, read into float64 by plain loops. Written apart from src/wire on
 * purpose: a misreading there must not be repeated here.
 */
export interface WireTensor {
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

export const BYTES: Readonly<Record<string, number>> = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
};

/** 1 sign, 5 exponent and 10 fraction bits. */
function readFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function reader(dtype: string, view: DataView): (index: number) => number {
  switch (dtype) {
    case 'float64':
      return (i) => view.getFloat64(8 * i, true);
    case 'float32':
      return (i) => view.getFloat32(4 * i, true);
    case 'float16':
      return (i) => readFloat16(view.getUint16(2 * i, true));
    case 'bfloat16': {
      // The upper half of a float32.
      const word = new DataView(new ArrayBuffer(4));
      return (i) => {
        word.setUint32(0, view.getUint16(2 * i, true) * 65536);
        return word.getFloat32(0);
      };
    }
    default:
      throw new Error(`not a dtype of the wire: ${dtype}`);
  }
}

export function values(tensor: WireTensor): Float64Array {
  const { dtype, shape, data } = tensor;
  const length = shape.reduce((product, size) => product * size, 1);
  if (data.byteLength !== length * BYTES[dtype]) {
    throw new Error(`${data.byteLength} bytes of ${dtype} for shape [${shape}]`);
  }
  const read = reader(dtype, new DataView(data.buffer, data.byteOffset, data.byteLength));
  return Float64Array.from({ length }, (_, i) => read(i));
}

/**
 * The nearest 16-bit float, for values that need not be rounded well: the fraction is cut off, and what
 * is below the smallest normal float16 becomes zero.
 */
function cutFloat16(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  if (exponent < -14) return sign;
  const fraction = Math.floor((Math.abs(value) / 2 ** exponent - 1) * 1024);
  return sign | ((exponent + 15) << 10) | fraction;
}

/** Test data in any dtype; float16 and bfloat16 are cut off, not rounded. */
export function encodeValues(dtype: string, shape: number[], numbers: Float64Array): WireTensor {
  const data = new Uint8Array(numbers.length * BYTES[dtype]);
  const view = new DataView(data.buffer);
  numbers.forEach((value, i) => {
    if (dtype === 'float64') view.setFloat64(8 * i, value, true);
    else if (dtype === 'float32') view.setFloat32(4 * i, value, true);
    else if (dtype === 'float16') view.setUint16(2 * i, cutFloat16(value), true);
    else view.setUint16(2 * i, new Uint32Array(Float32Array.of(value).buffer)[0] >>> 16, true);
  });
  return { dtype, shape, data };
}

/** Frobenius norm of the error over that of the truth; the absolute error where the truth is zero. */
export function relativeError(measured: Float64Array, truth: Float64Array): number {
  if (measured.length !== truth.length) {
    throw new Error(`${measured.length} numbers, expected ${truth.length}`);
  }
  let error = 0;
  let size = 0;
  for (let i = 0; i < truth.length; i++) {
    error += (measured[i] - truth[i]) ** 2;
    size += truth[i] ** 2;
  }
  return size === 0 ? Math.sqrt(error) : Math.sqrt(error / size);
}
