/**
 * Exact rows of P for ROWS queries at a time, not yet divided by their sums, on the tiles of the inner loops
 * (inner/assembly/attention.ts). A matrix with a number for each pair is (keys, ROWS), so that what belongs to a query is
 * a vector beside it. Matrices with a row for each key have room for a multiple of 8 rows, what lies in those past
 * the last is finite.
 */
import {
  BLOCK_BYTES,
  type Block,
  FIELD_AT,
  KEYS,
  LARGEST_EXPONENT,
  ROWS,
} from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { packedFloats } from '../../inner/operations/products.js';
import type { Real } from './arithmetic.js';
import type { Scratch } from './scratch.js';

/** Rows of log2(e) beta Q or of G, made ready for Attention. */
export interface Panels {
  rows: number;
  readonly width: number;
  readonly data: Real;
  /** Norm of the longest row of each block of ROWS. */
  readonly largest: Float64Array;
}

/** Keys k (keys, d), the first `count` of them, and the norm of the longest or more. */
interface ScoredKeys {
  readonly k: Real;
  readonly count: number;
  readonly largest: number;
}

/** Thin factors that dS or P meets, and the sums that their products are added to; null: not wanted. */
interface ThinProducts {
  /** A multiple of 8. */
  readonly width: number;
  /** dS'u: u (keys, width), sum (ROWS, width). */
  readonly right: { readonly factor: Real; readonly sum: Real } | null;
  /** dS l: l (ROWS, width), rows past the last 0; sum (keys, width). */
  readonly left: { readonly factor: Real; readonly sum: Real } | null;
}

/** Rows of V (count, width). */
export interface Values {
  readonly v: Real;
  readonly width: number;
}

/** G of the queries of block `block`, and where G.O goes, in the units of E. */
interface Upstream {
  readonly gradient: Panels;
  readonly block: number;
  readonly dot: Float64Array;
}

export function openPanels(scratch: Scratch, rows: number, width: number): Panels {
  const blocks = Math.ceil(rows / ROWS);
  const data = scratch.array(packedFloats(width, blocks * ROWS));
  return { rows: 0, width, data, largest: new Float64Array(blocks) };
}

/** scale x (rows, width) into panels that have room for it. */
export function fillPanels(
  { wasm }: Scratch,
  panels: Panels,
  rows: number,
  x: Real,
  scale: number,
): void {
  const { width, data, largest } = panels;
  panels.rows = rows;
  wasm.fn.pack_transposed(rows, width, x.byteOffset, width, scale, data.byteOffset);
  for (let first = 0, b = 0; first < rows; first += ROWS, b++) {
    const at = x.byteOffset + 4 * first * width;
    largest[b] = scale * wasm.fn.largest_norm(Math.min(ROWS, rows - first), width, at);
  }
}

export class Attention {
  /** E = 2^(S - max) and dS, of the keys and the queries of the last call of `scores`. */
  readonly e: Real;
  readonly ds: Real;
  readonly #wasm: Wasm;
  readonly #at: number;
  readonly #fields: Int32Array;
  /** Maxima that nobody wants. */
  readonly #unused: Real;
  /** First query of the block that sees each key. */
  readonly #hidden: Int32Array;
  #tiles = 0;

  /** With room for `keys` keys (keys, d). */
  constructor(scratch: Scratch, keys: number, d: number) {
    const { wasm } = scratch;
    this.#wasm = wasm;
    const whole = 8 * Math.ceil(keys / 8);
    this.e = scratch.array(whole * ROWS);
    this.ds = scratch.array(whole * ROWS);
    this.#unused = scratch.array(ROWS);
    this.#hidden = scratch.indices(new Int32Array(keys));
    this.#at = scratch.array(BLOCK_BYTES / 4).byteOffset;
    this.#fields = wasm.i32(this.#at, BLOCK_BYTES / 4);
    this.#write({ d, e: this.e.byteOffset, t: this.ds.byteOffset });
  }

  /**
   * S = queries k' of the queries from block ROWS on. If asked to, raises max (ROWS) to the row maxima, or sets it to
   * something else that E may be relative to: 0 where Cauchy-Schwarz bounds S. The first hidden[j]
   * queries do not see key j; null: all see all.
   */
  scores(
    queries: Panels,
    block: number,
    { k, count, largest }: ScoredKeys,
    max: Real,
    raise: boolean,
    hidden: Int32Array | null,
  ): void {
    const { fn } = this.#wasm;
    const rows = Math.min(ROWS, queries.rows - block * ROWS);
    const bounded =
      !hidden && queries.largest[block] * largest <= LARGEST_EXPONENT && allows(max, rows, raise);
    const raised = raise ? max : this.#unused;
    if (hidden) this.#hidden.set(hidden);
    this.#tiles = Math.ceil(count / KEYS);
    this.#write({
      ...{ rows: 16 * Math.ceil(rows / 16), keys: count, q: addressOf(queries, block) },
      ...{ k: k.byteOffset, max: raised.byteOffset, bounded: Number(bounded) },
      from: hidden ? this.#hidden.byteOffset : 0,
    });
    // Else S is made together with E.
    if (bounded) max.fill(0, 0, rows);
    else fn.scores(this.#at, 0, this.#tiles);
  }

  /**
   * E, its row sums added to total (ROWS); v'E added to output (width, ROWS) for values v (keys, width); and the same
   * as `products` does, while E is in the cache.
   */
  weights(
    max: Real,
    total: Float64Array,
    values: Values | null,
    output: Real | null,
    upstream: Upstream | null,
  ): void {
    this.#write({
      ...{ max: max.byteOffset, sum: total.byteOffset, o: output?.byteOffset ?? 0 },
      ...addressesOf(values, upstream),
    });
    this.#wasm.fn.weights(this.#at, 0, this.#tiles);
  }

  /** G v' in place of dS, and the row sums of E times it added to dot (ROWS). */
  products(values: Values, upstream: Upstream): void {
    this.#write(addressesOf(values, upstream));
    this.#wasm.fn.values(this.#at, 0, this.#tiles);
  }

  /**
   * dS = E (G v' - shift) for shift (ROWS) after `products`, where anything of it is wanted, and what dS and E are
   * multiplied by.
   */
  gradients(shift: Real, ofScores: ThinProducts | null, ofWeights: ThinProducts | null): void {
    const [s, w] = [thin(ofScores), thin(ofWeights)];
    this.#write({
      mean: shift.byteOffset,
      ...{ ps: s.width, us: s.u, rs: s.right, ws: s.l, ls: s.left },
      ...{ pv: w.width, uv: w.u, rv: w.right, wv: w.l, lv: w.left },
    });
    this.#wasm.fn.gradients(this.#at, 0, this.#tiles);
  }

  #write(change: Partial<Block>): void {
    for (const name in change) {
      const field = name as keyof Block;
      this.#fields[FIELD_AT[field]] = change[field]!;
    }
  }
}

/** Whether weights may be relative to 0, after what they were relative to before. */
function allows(max: Real, rows: number, change: boolean): boolean {
  for (let i = 0; i < rows; i++) {
    if (change ? !(max[i] <= LARGEST_EXPONENT) : max[i] !== 0) return false;
  }
  return true;
}

/** Panels of 16 rows follow each other. */
function addressOf({ width, data }: Panels, block: number): number {
  return data.byteOffset + 4 * block * ROWS * width;
}

function addressesOf(values: Values | null, upstream: Upstream | null) {
  return {
    ...{ v: values?.v.byteOffset ?? 0, dv: values?.width ?? 0 },
    g: upstream ? addressOf(upstream.gradient, upstream.block) : 0,
    dot: upstream?.dot.byteOffset ?? 0,
  };
}

function thin(products: ThinProducts | null) {
  return {
    width: products?.width ?? 0,
    u: products?.right?.factor.byteOffset ?? 0,
    right: products?.right?.sum.byteOffset ?? 0,
    l: products?.left?.factor.byteOffset ?? 0,
    left: products?.left?.sum.byteOffset ?? 0,
  };
}
