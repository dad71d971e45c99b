/**
 * Memory for one piece of work, visible to every thread, and used again by the next.
 *
 * The first touch of a fresh page costs more than filling it: for a body of 16 MB about as much as
 * receiving it. So blocks that are given back are kept for who asks next.
 */

/** Smallest block: the tensors of a small request share one. */
const SMALLEST = 2 ** 18;
const CACHE_LINE = 64;
/** Bytes that are kept; the blocks given back longest ago make room. */
const LEAST_KEPT_BYTES = 2 ** 27;
let keptBytes = LEAST_KEPT_BYTES;

/** This thread keeps so many bytes from now on, or the least that every thread keeps. */
export function keepBytes(bytes: number): void {
  keptBytes = Math.max(LEAST_KEPT_BYTES, bytes);
}

/** Those of this thread, in the order in which they were given back. */
let kept: SharedArrayBuffer[] = [];

function take(bytes: number): SharedArrayBuffer {
  let best: SharedArrayBuffer | null = null;
  for (const block of kept) {
    const fits = block.byteLength >= bytes && block.byteLength <= 2 * bytes;
    if (fits && (!best || block.byteLength < best.byteLength)) best = block;
  }
  if (!best) return new SharedArrayBuffer(bytes);
  kept = kept.filter((block) => block !== best);
  return best;
}

function give(blocks: readonly SharedArrayBuffer[]): void {
  kept.push(...blocks);
  let bytes = kept.reduce((sum, { byteLength }) => sum + byteLength, 0);
  while (bytes > keptBytes) bytes -= kept.shift()?.byteLength as number;
}

/**
 * Writes `source` to `target` from element `at` on, whatever their alignment. `set` goes byte by byte where memory is
 * shared and the two are not aligned alike, which takes ten times as long.
 */
export function copyBytes(target: Uint8Array, source: Uint8Array, at = 0): void {
  if (source.length === 0) return;
  const all = Buffer.from(target.buffer, target.byteOffset, target.byteLength);
  all.fill(source, at, at + source.length);
}

/** Nothing of what this thread was given back is kept any longer. */
export function forgetBlocks(): void {
  kept = [];
}

type Numbers = Float32Array | Float64Array | Int32Array;

const isNumbers = (x: unknown): x is Numbers =>
  x instanceof Float32Array || x instanceof Float64Array || x instanceof Int32Array;

/**
 * A copy of plain objects and arrays whose typed arrays lie together in shared memory, those that lie in one already as
 * they are: cloning it costs little, however large they are.
 */
export function shared<T>(value: T): T {
  let bytes = 0;
  const found = new Map<Numbers, number>();
  const visit = (x: unknown): void => {
    if (isNumbers(x)) {
      if (x.buffer instanceof SharedArrayBuffer || found.has(x)) return;
      found.set(x, bytes);
      bytes += 8 * Math.ceil(x.byteLength / 8);
    } else if (typeof x === 'object' && x !== null) Object.values(x).forEach(visit);
  };
  visit(value);
  const memory = new SharedArrayBuffer(bytes);
  const copies = new Map<unknown, Numbers>();
  for (const [x, at] of found) {
    const copy = new (x.constructor as Float64ArrayConstructor)(memory, at, x.length);
    copy.set(x);
    copies.set(x, copy);
  }
  const copyOf = (x: unknown): unknown => {
    if (isNumbers(x)) return copies.get(x) ?? x;
    if (Array.isArray(x)) return x.map(copyOf);
    if (typeof x !== 'object' || x === null) return x;
    return Object.fromEntries(Object.entries(x).map(([key, part]) => [key, copyOf(part)]));
  };
  return copyOf(value) as T;
}

/**
 * What it hands out is not cleared. A lease that is never ended costs nothing: its memory goes to the
 * garbage collector and not to the next lease. Small arrays share blocks: each block of its own is 10 microseconds
 * on its way to another thread.
 */
export class Lease {
  #blocks: SharedArrayBuffer[] = [];
  /** The last block for small arrays, and how many of its bytes are taken. */
  #small: { readonly block: SharedArrayBuffer; used: number } | null = null;

  bytes(length: number): Uint8Array {
    return new Uint8Array(...this.#place(length), length);
  }

  float32(length: number): Float32Array {
    return new Float32Array(...this.#place(4 * length), length);
  }

  float64(length: number): Float64Array {
    return new Float64Array(...this.#place(8 * length), length);
  }

  int32(length: number): Int32Array {
    return new Int32Array(...this.#place(4 * length), length);
  }

  /** Gives everything back: no thread may look at it or write to it any more. */
  end(): void {
    give(this.#blocks);
    this.#blocks = [];
    this.#small = null;
  }

  #place(bytes: number): [SharedArrayBuffer, number] {
    if (bytes > SMALLEST / 4) return [this.#block(Math.max(bytes, SMALLEST)), 0];
    if (!this.#small || this.#small.used + bytes > SMALLEST) {
      this.#small = { block: this.#block(SMALLEST), used: 0 };
    }
    const at = this.#small.used;
    this.#small.used += CACHE_LINE * Math.ceil(bytes / CACHE_LINE);
    return [this.#small.block, at];
  }

  #block(bytes: number): SharedArrayBuffer {
    const block = take(bytes);
    this.#blocks.push(block);
    return block;
  }
}
