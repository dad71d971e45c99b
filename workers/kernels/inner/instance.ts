/** A WebAssembly instance: its functions, and its memory as one stack of allocations. */

export type WasmMode = 'plain' | 'relaxed';

/**
 * The functions of assembly/, described where they are defined. Addresses are in bytes, leading
 * dimensions in elements; everything is float32 but where it says so.
 */
export interface WasmExports {
  readonly memory: WebAssembly.Memory;
  /** x = e^x */
  exp(x: number, n: number): void;
  /** max |x| */
  max_abs(x: number, n: number): number;
  /** Largest Euclidean norm of the rows of x (rows, n) */
  largest_norm(rows: number, n: number, x: number): number;
  /** y += alpha x */
  axpy(n: number, alpha: number, x: number, y: number): void;
  /** y = x y, elementwise */
  multiply(n: number, x: number, y: number): void;
  /** y_i = x_index[i] for rows of n floats; index int32 */
  gather_rows(rows: number, n: number, index: number, x: number, y: number): void;
  /** y_index[i] += x_i */
  scatter_rows(rows: number, n: number, index: number, x: number, y: number): void;
  /** b (k, n) -> panels for gemm: packedFloats(k, n) of them */
  pack(k: number, n: number, b: number, ldb: number, dst: number): void;
  /** scale bt (n, k) -> panels of its transpose */
  pack_transposed(n: number, k: number, bt: number, ld: number, scale: number, dst: number): void;
  /** c (m, n) = [c +] a (m, k) b, b packed */
  gemm: Gemm;
  /** c (m, n) = [c +] a^T b, a (k, m), b packed */
  gemm_tn: Gemm;
  /** y (float64) = x (float32) */
  widen(n: number, x: number, y: number): void;
  /** float64: out[j] = x_j . y for x (n, k) */
  dots64(n: number, k: number, x: number, y: number, out: number): void;
  /** float64: out (k) += sum_j w[j] x_j for x (n, k) */
  combine64(n: number, k: number, w: number, x: number, out: number): void;
  /** The passes over the tiles of a row block, described in block.ts. */
  scores(block: number, t0: number, t1: number): void;
  weights(block: number, t0: number, t1: number): void;
  values(block: number, t0: number, t1: number): void;
  gradients(block: number, t0: number, t1: number): void;
  /** Passes of the low-rank kernel; see assembly/low-rank.ts. */
  running_softmax(
    rows: number,
    columns: number,
    s: number,
    max: number,
    total: number,
    factor: number,
  ): void;
  score_gradient(
    rows: number,
    columns: number,
    p: number,
    t: number,
    scale: number,
    shift: number,
  ): void;
  outer(rows: number, n: number, p: number, a: number, b: number, c: number, ldc: number): void;
  contract(rows: number, n: number, p: number, a: number, t: number, ldt: number, c: number): void;
  take_centres(rows: number, groups: number, p: number, x: number, c: number): void;
  group_sums(
    rows: number,
    n: number,
    p: number,
    groups: number,
    phi: number,
    ldphi: number,
    t: number,
    out: number,
  ): void;
  fold(n: number, block: number, sums: number): void;
  transpose(rows: number, columns: number, a: number, b: number): void;
  feature_products(
    features: number,
    rows: number,
    base: number,
    slot: number,
    table: number,
    phi: number,
  ): void;
  weigh_features(features: number, rows: number, phi: number, weight: number, out: number): void;
  scale_columns(features: number, rows: number, x: number, scale: number, out: number): void;
  column_dots(features: number, rows: number, a: number, b: number, out: number): void;
  rotate(rows: number, d: number, cos: number, sin: number, x: number, back: boolean): void;
  forms(rows: number, n: number, x: number, linear: number, quadratic: number, out: number): void;
  row_dots(rows: number, n: number, a: number, b: number, out: number): void;
  scale_rows(rows: number, n: number, x: number, scale: number): void;
  add_row(rows: number, n: number, row: number, y: number): void;
  combine(n: number, alpha: number, x: number, beta: number, y: number): void;
  copy_columns(rows: number, columns: number, x: number, ldx: number, y: number, ldy: number): void;
  largest(n: number, x: number): number;
  joined_row(
    n: number,
    scale: number,
    low: number,
    exactly: number,
    e: number,
    weight: number,
    t: number,
    other: number,
    out: number,
  ): void;
  row_errors(
    n: number,
    inverse: number,
    otherInverse: number,
    mean: number,
    shift: number,
    forScore: number,
    forValue: number,
    e: number,
    t: number,
    other: number,
    weight: number,
    u: number,
    v: number,
    scoreColumns: number,
    valueColumns: number,
    out: number,
  ): void;
  square_sums(features: number, rows: number, phi: number, out: number): void;
  feature_table(
    slots: number,
    rows: number,
    index: number,
    factor: number,
    x: number,
    table: number,
  ): void;
}

type Gemm = (
  m: number,
  n: number,
  k: number,
  a: number,
  lda: number,
  b: number,
  c: number,
  ldc: number,
  accumulate: boolean,
) => void;

const PAGE = 65536;
/** The first page holds the modules' own data. */
const FIRST = PAGE;
/** Products read a few elements past the last row of an operand; they must exist. */
const SLACK = 4096;

/** Floats that a (k, n) operand takes when packed into panels of 16 columns. */
export function packedFloats(k: number, n: number): number {
  return k * 16 * Math.ceil(n / 16);
}

export class Wasm {
  /** Who allocated what lies in memory now. A task that finds its own name may reuse its data. */
  owner: string | null = null;
  #top = FIRST;

  constructor(
    readonly fn: WasmExports,
    readonly mode: WasmMode,
  ) {}

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
    const missing = this.#top + SLACK - this.fn.memory.buffer.byteLength;
    if (missing > 0) this.fn.memory.grow(Math.ceil(missing / PAGE));
    return at;
  }

  allocFloats(n: number): number {
    return this.alloc(4 * n);
  }

  f32(at: number, n: number): Float32Array {
    return new Float32Array(this.fn.memory.buffer, at, n);
  }

  f64(at: number, n: number): Float64Array {
    return new Float64Array(this.fn.memory.buffer, at, n);
  }

  i32(at: number, n: number): Int32Array {
    return new Int32Array(this.fn.memory.buffer, at, n);
  }

  /** Copies (float64 is rounded) and returns the address. */
  put(x: Float32Array | Float64Array): number {
    const at = this.allocFloats(x.length);
    this.f32(at, x.length).set(x);
    return at;
  }
}
