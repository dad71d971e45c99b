/**
 * Where the large arrays of some values lie: what overlaps is one region, which travels once, whichever parts of it they
 * are. Rows of the same inputs as queries, keys and values are such parts.
 */

export type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array;

/** Smaller arrays travel with what refers to them. */
export const SMALL_BYTES = 16_384;
/** Regions begin where any type of numbers may. */
const ALIGNMENT = 8;

export const isNumbers = (x: unknown): x is Numbers => ArrayBuffer.isView(x);

export class Regions {
  readonly #of = new Map<ArrayBufferLike, Uint8Array[]>();

  constructor(value: unknown) {
    const ranges = new Map<ArrayBufferLike, { first: number; last: number }[]>();
    const visit = (x: unknown): void => {
      if (typeof x !== 'object' || x === null) return;
      if (!isNumbers(x)) return Object.values(x).forEach(visit);
      if (x.byteLength < SMALL_BYTES) return;
      const first = x.byteOffset - (x.byteOffset % ALIGNMENT);
      const ofBuffer = ranges.get(x.buffer) ?? [];
      ranges.set(x.buffer, ofBuffer);
      ofBuffer.push({ first, last: x.byteOffset + x.byteLength });
    };
    visit(value);
    for (const [buffer, all] of ranges) {
      const joined: typeof all = [];
      for (const range of all.sort((a, b) => a.first - b.first)) {
        const before = joined.at(-1);
        if (before && range.first < before.last) before.last = Math.max(before.last, range.last);
        else joined.push(range);
      }
      this.#of.set(
        buffer,
        joined.map(({ first, last }) => new Uint8Array(buffer, first, last - first)),
      );
    }
  }

  get bytes(): number {
    return [...this.#of.values()].flat().reduce((sum, { length }) => sum + length, 0);
  }

  /** The region that holds a large array of the values. */
  around({ buffer, byteOffset }: Numbers): Uint8Array {
    return this.#of.get(buffer)!.findLast((region) => region.byteOffset <= byteOffset)!;
  }
}
