/** The operations of one build, and the memory that they work on as one stack of allocations. */
import type { Operations } from './operations/operations.js';
import type { Stages } from './operations/stages.js';

/** Which build: of C for an instruction set, or of AssemblyScript with or without fused multiply-add. */
export type KernelBuild = 'avx512' | 'avx2' | 'neon' | 'wasm-relaxed' | 'wasm-plain';

/** Native builds have whole stages too. */
export interface WasmExports extends Operations, Partial<Stages> {
  readonly memory: WebAssembly.Memory;
}

const PAGE = 65536;
/** The first page holds the modules' own data. */
const FIRST = PAGE;
/** Products read a few elements past the last row of an operand; they must exist. */
const SLACK = 4096;

type Words = Float32Array | Int32Array;

export class Wasm {
  /** The job whose data is in memory now. A task that finds its own job's name may reuse them. */
  owner: string | null = null;
  #top = FIRST;
  #buffer: ArrayBuffer;
  /** Where arrays begin that were asked for: asking takes longer than what is done with most of them. */
  readonly #begins = new WeakMap<ArrayBufferView, number>();

  /**
   * @param moved called when memory has grown: what works on it from outside looks it up again.
   * @param addressOf where operations find an array that does not lie in this memory, as long as it is held; null: they cannot.
   */
  constructor(
    readonly fn: WasmExports,
    readonly build: KernelBuild,
    readonly moved: () => void = () => {},
    readonly addressOf: ((x: ArrayBufferView) => number) | null = null,
  ) {
    this.#buffer = fn.memory.buffer;
  }

  /** Looked up again only when it has moved: asking the memory for it takes longer than most views are used. */
  get buffer(): ArrayBuffer {
    if (this.#buffer.byteLength === 0) this.#buffer = this.fn.memory.buffer;
    return this.#buffer;
  }

  /** Forgets all allocations. Allocating the same sizes in the same order gives the same addresses. */
  reset(): void {
    this.#top = FIRST;
    this.owner = null;
  }

  /** Where the next allocation begins: `release` takes it to drop everything allocated since. */
  mark(): number {
    return this.#top;
  }

  release(mark: number): void {
    this.#top = mark;
  }

  /**
   * An address aligned to a cache line; contents undefined. Views made earlier may be detached by
   * the growth of memory: allocate first, then look.
   */
  alloc(bytes: number): number {
    const at = this.#top;
    this.#top = Math.ceil((at + bytes) / 64) * 64;
    const missing = this.#top + SLACK - this.buffer.byteLength;
    if (missing > 0) {
      this.fn.memory.grow(Math.ceil(missing / PAGE));
      this.moved();
    }
    return at;
  }

  allocFloats(n: number): number {
    return this.alloc(4 * n);
  }

  f32(at: number, n: number): Float32Array {
    return new Float32Array(this.buffer, at, n);
  }

  f64(at: number, n: number): Float64Array {
    return new Float64Array(this.buffer, at, n);
  }

  i32(at: number, n: number): Int32Array {
    return new Int32Array(this.buffer, at, n);
  }

  /** An address with the float32 numbers of x: that of x, where operations reach it, or that of a copy. */
  put(x: Float32Array | Float64Array): number {
    const own = this.#own(x);
    if (own !== null) return own;
    const at = this.allocFloats(x.length);
    this.f32(at, x.length).set(x);
    return at;
  }

  /** As `put`, for what x is to become: contents undefined, until `keep` brings them to x. */
  room(x: Words): number {
    return this.#own(x) ?? this.alloc(x.byteLength);
  }

  /** The numbers at the address that `put` or `room` gave for x. */
  view(x: Float32Array, at: number): Float32Array {
    return at === this.#own(x) ? x : this.f32(at, x.length);
  }

  /** x as it is at that address. */
  keep(x: Words, at: number): void {
    if (at === this.#own(x)) return;
    x.set(x instanceof Int32Array ? this.i32(at, x.length) : this.f32(at, x.length));
  }

  /** Where element `index` of x lies; null: operations reach this memory only. */
  elementAt(x: Float32Array | Float64Array | Int32Array, index = 0): number | null {
    if (!this.addressOf) return null;
    const begin = this.#begins.get(x) ?? this.addressOf(x);
    this.#begins.set(x, begin);
    return begin + index * x.BYTES_PER_ELEMENT;
  }

  /** Where x lies, if operations reach it. Only shared memory stays in its place as long as anyone works on it. */
  #own(x: Words | Float64Array): number | null {
    const reached =
      this.addressOf && !(x instanceof Float64Array) && x.buffer instanceof SharedArrayBuffer;
    return reached ? this.addressOf(x) : null;
  }
}
