import { widenFloat16 } from '../../../workers/tensor/half.js';

/** numpy scalars such as np.float32(0.5) or np.int64(3), which msgpack-numpy sends as bytes. */
export interface NumpyScalar {
  /** Bytes. */
  readonly size: number;
  readonly read: (view: DataView, at: number) => number | boolean;
}

/**
 * By numpy type name, little endian only. Beyond 2^53 a 64-bit integer is rounded: no field
 * of a request takes integers of that size.
 */
export const NUMPY_SCALARS: ReadonlyMap<string, NumpyScalar> = new Map<string, NumpyScalar>([
  ['|b1', { size: 1, read: (view, at) => view.getUint8(at) !== 0 }],
  ['|i1', { size: 1, read: (view, at) => view.getInt8(at) }],
  ['|u1', { size: 1, read: (view, at) => view.getUint8(at) }],
  ['<i2', { size: 2, read: (view, at) => view.getInt16(at, true) }],
  ['<u2', { size: 2, read: (view, at) => view.getUint16(at, true) }],
  ['<i4', { size: 4, read: (view, at) => view.getInt32(at, true) }],
  ['<u4', { size: 4, read: (view, at) => view.getUint32(at, true) }],
  ['<i8', { size: 8, read: (view, at) => Number(view.getBigInt64(at, true)) }],
  ['<u8', { size: 8, read: (view, at) => Number(view.getBigUint64(at, true)) }],
  ['<f2', { size: 2, read: (view, at) => widenFloat16(view.getUint16(at, true)) }],
  ['<f4', { size: 4, read: (view, at) => view.getFloat32(at, true) }],
  ['<f8', { size: 8, read: (view, at) => view.getFloat64(at, true) }],
]);
