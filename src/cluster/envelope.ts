/**
 * Tasks and results as they travel: plain objects whose large arrays are replaced by the names of blobs. Arrays that
 * share memory on this side need not on the other.
 */
import { Packr } from 'msgpackr/pack';
import { Unpackr } from 'msgpackr/unpack';
import type { BlobName } from './names.js';

type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array;
const TYPES = { Float32Array, Float64Array, Int32Array, Uint8Array };
type TypeName = keyof typeof TYPES;

/** Smaller arrays stand in the envelope itself. */
const SMALL_BYTES = 16_384;

interface Stub {
  readonly $array: TypeName;
  /** A blob, or the bytes themselves. */
  readonly of: BlobName | Uint8Array;
}

const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: false });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true });

const isNumbers = (x: unknown): x is Numbers => ArrayBuffer.isView(x);
const isStub = (x: object): x is Stub => '$array' in x;

const bytesOf = ({ buffer, byteOffset, byteLength }: Numbers) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** @param put keeps bytes where the other side finds them. */
export async function seal(
  value: unknown,
  put: (bytes: Uint8Array) => Promise<BlobName>,
): Promise<Buffer> {
  const stub = async (x: unknown): Promise<unknown> => {
    if (typeof x !== 'object' || x === null) return x;
    if (isNumbers(x)) {
      const bytes = bytesOf(x);
      const of = bytes.length < SMALL_BYTES ? Buffer.from(bytes) : await put(bytes);
      return { $array: x.constructor.name as TypeName, of } satisfies Stub;
    }
    if (Array.isArray(x)) {
      const items: unknown[] = [];
      for (const item of x) items.push(await stub(item));
      return items;
    }
    const copy: Record<string, unknown> = {};
    for (const [key, item] of Object.entries(x)) {
      if (item !== undefined && typeof item !== 'function') copy[key] = await stub(item);
    }
    return copy;
  };
  return packr.pack(await stub(value)) as Buffer;
}

/** @param get finds the bytes of a blob, in shared memory. */
export async function open(
  envelope: Uint8Array,
  get: (name: BlobName) => Promise<Uint8Array>,
): Promise<unknown> {
  const whole = async (x: unknown): Promise<unknown> => {
    if (typeof x !== 'object' || x === null) return x;
    if (Array.isArray(x)) return Promise.all(x.map(whole));
    if (isStub(x)) {
      const bytes = x.of instanceof Uint8Array ? shared(x.of) : await get(x.of);
      const Type = TYPES[x.$array];
      return new Type(
        bytes.buffer as ArrayBuffer,
        bytes.byteOffset,
        bytes.byteLength / Type.BYTES_PER_ELEMENT,
      );
    }
    const entries = Object.entries(x).map(async ([key, item]) => [key, await whole(item)] as const);
    return Object.fromEntries(await Promise.all(entries));
  };
  return whole(unpackr.unpack(envelope));
}

/** Of all large arrays in a value, each once. */
export function bytesOfArrays(value: unknown): number {
  const seen = new Map<string, number>();
  const ids = new Map<ArrayBufferLike, number>();
  const visit = (x: unknown): void => {
    if (typeof x !== 'object' || x === null) return;
    if (!isNumbers(x)) return Object.values(x).forEach(visit);
    if (!ids.has(x.buffer)) ids.set(x.buffer, ids.size);
    seen.set(`${ids.get(x.buffer)} ${x.byteOffset} ${x.byteLength}`, x.byteLength);
  };
  visit(value);
  return [...seen.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** A copy that every thread can see. */
export function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}
