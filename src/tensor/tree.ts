import { ITEM_SIZE, isBigEndian, parseDtype } from './dtype.js';
import { type EncodedTensor, encodedTensor } from './encoded.js';
import { elementCount } from './tensor.js';
import { appendPointer, WireError } from './wire-error.js';
export type Dialect = 'tensor' | 'numpy' | 'list';
export interface Decoded {
  value: unknown;
  dialect: Dialect;
}
const key = (k: unknown) => (typeof k === 'string' ? k : Buffer.from(k as Uint8Array).toString());
function bad(p: string, m: string): never {
  throw new WireError('invalid-tensor', p, m);
}
export function toTree(root: unknown): Decoded {
  let dialect: Dialect | null = null;
  const tensor = (p: string, name: unknown, shape: unknown, data: unknown): EncodedTensor => {
    if (typeof name !== 'string') bad(p, 'dtype must be a string');
    if (isBigEndian(name)) bad(p, 'big endian');
    const dtype = parseDtype(name) ?? bad(p, 'unknown dtype; float32');
    if (
      !Array.isArray(shape) ||
      shape.length > 8 ||
      !shape.every((n) => Number.isSafeInteger(n) && n > 0)
    )
      bad(p, 'shape');
    const bytes = typeof data === 'string' ? Buffer.from(data, 'base64') : data;
    if (!(bytes instanceof Uint8Array)) bad(p, 'data');
    const want = elementCount(shape) * ITEM_SIZE[dtype];
    if (bytes.length !== want) bad(p, `needs ${want} bytes, has ${bytes.length}`);
    return encodedTensor(dtype, shape, bytes);
  };
  const walk = (v: unknown, p: string): unknown => {
    if (v instanceof Uint8Array) throw new WireError('invalid-value', p, 'bytes');
    if (typeof v === 'bigint') throw new WireError('invalid-value', p, 'bigint');
    if (v === null || typeof v !== 'object') return v;
    if (Array.isArray(v)) {
      let first: unknown = v;
      const shape: number[] = [];
      while (Array.isArray(first)) {
        shape.push(first.length);
        first = first[0];
      }
      if (typeof first === 'number') {
        dialect ??= 'list';
        const flat = v.flat(8) as number[];
        if (flat.length !== elementCount(shape) || !flat.every((x) => typeof x === 'number'))
          bad(p, 'ragged');
        return encodedTensor('float32', shape, new Uint8Array(Float32Array.from(flat).buffer));
      }
      return v.map((x, i) => walk(x, appendPointer(p, i)));
    }
    const map =
      v instanceof Map ? new Map([...v].map(([k, x]) => [key(k), x])) : new Map(Object.entries(v));
    if (map.has('nd')) {
      dialect ??= 'numpy';
      return tensor(p, map.get('type'), map.get('shape'), map.get('data'));
    }
    if (map.has('dtype')) {
      dialect ??= 'tensor';
      return tensor(p, map.get('dtype'), map.get('shape'), map.get('data'));
    }
    const out = Object.create(null);
    for (const [k, x] of map) out[k] = walk(x, appendPointer(p, k));
    return out;
  };
  const value = walk(root, '');
  return { value, dialect: dialect ?? 'tensor' };
}
