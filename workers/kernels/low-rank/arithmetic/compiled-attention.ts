/** Attention of arithmetic.ts on the tiles of the exact kernel (wasm/assembly/attention.ts). */
import {
  BLOCK_BYTES,
  type Block,
  FIELD_AT,
  KEYS,
  LARGEST_EXPONENT,
  ROWS,
} from '../../inner/block.js';
import { packedFloats, type Wasm } from '../../inner/instance.js';
import type {
  Arithmetic,
  Attention,
  Panels,
  Real,
  ScoredKeys,
  ThinProducts,
  Upstream,
  Values,
} from './arithmetic.js';

export function allocatePanels(arithmetic: Arithmetic, rows: number, width: number): Panels {
  const blocks = Math.ceil(rows / ROWS);
  const data = arithmetic.array(packedFloats(width, blocks * ROWS));
  return { rows: 0, width, data, largest: new Float64Array(blocks) };
}

export function fillPanels(
  wasm: Wasm,
  { width, data, largest }: Panels,
  rows: number,
  x: Real,
  scale: number,
): void {
  wasm.fn.pack_transposed(rows, width, x.byteOffset, width, scale, data.byteOffset);
  for (let first = 0, b = 0; first < rows; first += ROWS, b++) {
    const at = x.byteOffset + 4 * first * width;
    largest[b] = scale * wasm.fn.largest_norm(Math.min(ROWS, rows - first), width, at);
  }
}

export class CompiledAttention implements Attention {
  readonly e: Real;
  readonly ds: Real;
  readonly #wasm: Wasm;
  readonly #at: number;
  readonly #fields: Int32Array;
  /** Maxima that nobody wants. */
  readonly #unused: Real;
  #tiles = 0;

  constructor(wasm: Wasm, arithmetic: Arithmetic, keys: number, d: number) {
    this.#wasm = wasm;
    const whole = 8 * Math.ceil(keys / 8);
    this.e = arithmetic.array(whole * ROWS);
    this.ds = arithmetic.array(whole * ROWS);
    this.#unused = arithmetic.array(ROWS);
    this.#at = arithmetic.array(BLOCK_BYTES / 4).byteOffset;
    this.#fields = wasm.i32(this.#at, BLOCK_BYTES / 4);
    this.#write({ d, e: this.e.byteOffset, t: this.ds.byteOffset });
  }

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
    const raised = raise && !hidden ? max : this.#unused;
    this.#tiles = Math.ceil(count / KEYS);
    this.#write({
      ...{ rows: 16 * Math.ceil(rows / 16), keys: count, q: addressOf(queries, block) },
      ...{ k: k.byteOffset, max: raised.byteOffset, bounded: Number(bounded) },
    });
    if (bounded) {
      // S is made together with E.
      max.fill(0, 0, rows);
      return;
    }
    fn.scores(this.#at, 0, this.#tiles);
    if (!hidden) return;
    hidden.forEach((n, j) => {
      this.e.fill(Number.NEGATIVE_INFINITY, j * ROWS, j * ROWS + n);
    });
    if (!raise) return;
    this.#write({ max: max.byteOffset });
    fn.maxima(this.#at, 0, this.#tiles);
  }

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

  products(values: Values, upstream: Upstream): void {
    this.#write(addressesOf(values, upstream));
    this.#wasm.fn.values(this.#at, 0, this.#tiles);
  }

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
