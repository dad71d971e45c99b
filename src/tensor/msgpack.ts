import { Packr, Unpackr } from 'msgpackr';
import { isEncodedTensor } from './encoded.js';
import * as scan from './msgpack-scan.js';
import { type Decoded, type Dialect, toTree } from './tree.js';
import { DEFAULT_WIRE_LIMITS } from './wire-limits.js';

const un = new Unpackr({ useRecords: false, mapsAsObjects: false, int64AsType: 'number' });
const pk = new Packr({ useRecords: false });
export function decodeMsgpack(b: Uint8Array): Decoded {
  Object.values(scan)[0](b as never, DEFAULT_WIRE_LIMITS);
  return toTree(un.unpack(Buffer.from(b.buffer, b.byteOffset, b.length)));
}
const conv = (v: unknown): unknown =>
  isEncodedTensor(v)
    ? {
        dtype: v.dtype,
        shape: v.shape,
        data: Buffer.from(v.bytes.buffer, v.bytes.byteOffset, v.bytes.length),
      }
    : Array.isArray(v)
      ? v.map(conv)
      : v && typeof v === 'object'
        ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, conv(x)]))
        : v;
export function encodeMsgpack(v: unknown, _d: Dialect): Buffer {
  return Buffer.from(pk.pack(conv(v)));
}
