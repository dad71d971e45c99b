/** Moving matrices between shared memory and that of WebAssembly. */
import type { Rotary } from '../../problem.js';
import type { Tensor } from '../../tensor/tensor.js';
import type { Wasm } from './instance.js';
import { packedFloats } from './operations/products.js';

export type Floats = Float32Array | Float64Array;

/** Rows [first, first + n) of a matrix with `columns` columns. */
export function rowsOf(tensor: Tensor, columns: number, first: number, n: number): Floats {
  return tensor.data.subarray(first * columns, (first + n) * columns);
}

/** Number `index` of equal pieces of `size` elements. */
export function slice<T extends Floats | Int32Array>(x: T, index: number, size: number): T {
  return x.subarray(index * size, (index + 1) * size) as T;
}

/** scale x^T, for x (n, k) row-major, as the right operand of a product. */
export function packTransposed(wasm: Wasm, x: Floats, n: number, k: number, scale = 1): number {
  const packed = wasm.allocFloats(packedFloats(k, n));
  const mark = wasm.mark();
  wasm.fn.pack_transposed(n, k, wasm.put(x), k, scale, packed);
  wasm.release(mark);
  return packed;
}

/** x (k, n) row-major as the right operand of a product. */
export function pack(wasm: Wasm, x: Floats, k: number, n: number): number {
  const packed = wasm.allocFloats(packedFloats(k, n));
  const mark = wasm.mark();
  wasm.fn.pack(k, n, wasm.put(x), n, packed);
  wasm.release(mark);
  return packed;
}

/** The tables of n tokens of a batch item in memory, as the operation `rotate` takes them. */
export function rotaryRows(
  wasm: Wasm,
  { cos, sin }: Rotary,
  batchItem: number,
  first: number,
  n: number,
) {
  const width = cos.shape[2];
  const put = ({ data, shape: [items, length] }: Rotary['cos']) => {
    const at = ((items === 1 ? 0 : batchItem) * length + first) * width;
    return wasm.put(data.subarray(at, at + n * width));
  };
  return { width, cos: put(cos), sin: put(sin) };
}
