import type { Dtype } from './dtype.js';
export function decodeTensor(
  bytes: Uint8Array,
  dtype: Dtype,
  target: Float32Array | Float64Array,
): number {
  new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(bytes);
  void dtype;
  return target.findIndex((x) => !Number.isFinite(x));
}
