/**
 * Tasks and results as they travel: plain objects whose large arrays are replaced by the names of blobs. Arrays that
 * share memory on this side need not on the other.
 */
import { Packr } from 'msgpackr/pack';
import { Unpackr } from 'msgpackr/unpack';
import type { BlobName, BlobPart } from './names.js';
import { isNumbers, type Numbers, Regions, SMALL_BYTES } from './regions.js';

const TYPES = { Float32Array, Float64Array, Int32Array, Uint8Array };
type TypeName = keyof typeof TYPES;

interface Stub {
  readonly $array: TypeName;
  /** Bytes of a blob, or the bytes themselves. */
  readonly of: BlobPart | Uint8Array;
}

const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: false });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true });

const isStub = (x: object): x is Stub => '$array' in x;

const bytesOf = ({ buffer, byteOffset, byteLength }: Numbers) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/**
 * @param put keeps a region where the other side finds it.
 * @param regions of this value, and of others that are sent with it.
 */
export async function seal(
  value: unknown,
  put: (region: Uint8Array) => Promise<BlobName>,
  regions = new Regions(value),
): Promise<Buffer> {
  const placed = async (x: Numbers): Promise<BlobPart> => {
    const region = regions.around(x);
    const { digest, bytes } = await put(region);
    return { digest, bytes, at: x.byteOffset - region.byteOffset, length: x.byteLength };
  };
  const stub = async (x: unknown): Promise<unknown> => {
    if (typeof x !== 'object' || x === null) return x;
    if (isNumbers(x)) {
      const bytes = bytesOf(x);
      const of = bytes.length < SMALL_BYTES ? Buffer.from(bytes) : await placed(x);
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

/** @param get finds bytes of a blob, in shared memory. */
export async function open(
  envelope: Uint8Array,
  get: (part: BlobPart) => Promise<Uint8Array>,
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

/** A copy that every thread can see. */
export function shared(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}
