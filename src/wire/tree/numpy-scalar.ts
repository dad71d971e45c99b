import { widenFloat16 } from '../../../workers/tensor/half.js';

/** numpy scalars such as np.float32(0.5) or np.int64(3), which msgpack-numpy sends as bytes. */
export interface NumpyScalar {
  /** Bytes. */
  readonly size: number;
  readonly read: (view: DataView) => number | boolean;
}

/**
 * By numpy type name, little endian only. Beyond 2^53 a 64-bit integer is rounded: no field
 * of a request takes integers of that size.
 */
export const NUMPY_SCALARS: ReadonlyMap<string, NumpyScalar> = new Map([
  ['|b1', { size: 1, read: (view: DataView) => view.getUint8(0) !== 0 }],
  ['|i1', { size: 1, read: (view: DataView) => view.getInt8(0) }],
  ['|u1', { size: 1, read: (view: DataView) => view.getUint8(0) }],
  ['<i2', { size: 2, read: (view: DataView) => view.getInt16(0, true) }],
  ['<u2', { size: 2, read: (view: DataView) => view.getUint16(0, true) }],
  ['<i4', { size: 4, read: (view: DataView) => view.getInt32(0, true) }],
  ['<u4', { size: 4, read: (view: DataView) => view.getUint32(0, true) }],
  ['<i8', { size: 8, read: (view: DataView) => Number(view.getBigInt64(0, true)) }],
  ['<u8', { size: 8, read: (view: DataView) => Number(view.getBigUint64(0, true)) }],
  ['<f2', { size: 2, read: (view: DataView) => widenFloat16(view.getUint16(0, true)) }],
  ['<f4', { size: 4, read: (view: DataView) => view.getFloat32(0, true) }],
  ['<f8', { size: 8, read: (view: DataView) => view.getFloat64(0, true) }],
]);
