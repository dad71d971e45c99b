import type { Dtype } from './dtype.js';
export function narrowTensor(
  data: Float32Array | Float64Array,
  dtype: Dtype,
  target: Uint8Array,
): void {
  void dtype;
  const f = Float32Array.from(data);
  target.set(new Uint8Array(f.buffer));
}
