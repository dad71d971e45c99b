import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';

type Floats = Float32Array | Float64Array;

/** Rows of X that are looked at together. */
const TOKENS = 256;

/** Passes of float64 over rows of X (n, k): the inputs of a batch item, or weights. Products live here, in JavaScript. */
export class InputPasses {
  /** Allocates on top of what lies in memory. */
  constructor(
    readonly wasm: Wasm,
    readonly checkpoint: () => void,
  ) {}

  /** For each y (k): X y, over `n` rows of X (n, k). */
  dots(X: Floats, n: number, ys: readonly Float64Array[]): Float64Array[] {
    const { wasm } = this;
    const outs = ys.map(() => new Float64Array(n));
    const [k, m] = [X.length / n, ys.length];
    const mark = wasm.mark();
    const [vectors, products] = [wasm.alloc(8 * m * k), wasm.alloc(8 * m * Math.min(n, TOKENS))];
    for (const [v, y] of ys.entries()) wasm.f64(vectors, m * k).set(y, v * k);
    this.#blocks(X, n, (first, count, rows, isNarrow) => {
      wasm.fn[isNarrow ? 'dots32' : 'dots64'](count, k, m, rows, vectors, products);
      const found = wasm.f64(products, m * count);
      for (const [v, out] of outs.entries()) out.set(slice(found, v, count), first);
    });
    wasm.release(mark);
    return outs;
  }

  /** For each w (n): w^T X. */
  combine(X: Floats, n: number, ws: readonly Float64Array[]): Float64Array[] {
    const { wasm } = this;
    const [k, m] = [X.length / n, ws.length];
    const mark = wasm.mark();
    const [weights, sums] = [wasm.alloc(8 * m * Math.min(n, TOKENS)), wasm.alloc(8 * m * k)];
    wasm.f64(sums, m * k).fill(0);
    this.#blocks(X, n, (first, count, rows, isNarrow) => {
      const put = wasm.f64(weights, m * count);
      for (const [v, w] of ws.entries()) put.set(w.subarray(first, first + count), v * count);
      wasm.fn[isNarrow ? 'combine32' : 'combine64'](count, k, m, weights, rows, sums);
    });
    const outs = ws.map((_, v) => slice(wasm.f64(sums, m * k), v, k).slice());
    wasm.release(mark);
    return outs;
  }

  /** @param visit gets the address of `count` rows, of float32 or float64. */
  #blocks(
    X: Floats,
    n: number,
    visit: (first: number, count: number, rows: number, isNarrow: boolean) => void,
  ): void {
    const { wasm } = this;
    const k = X.length / n;
    for (let first = 0; first < n; first += TOKENS) {
      const count = Math.min(TOKENS, n - first);
      const block = X.subarray(first * k, (first + count) * k);
      const mark = wasm.mark();
      const isNarrow = block instanceof Float32Array;
      const rows = isNarrow ? wasm.put(block) : wasm.alloc(8 * block.length);
      if (!isNarrow) wasm.f64(rows, block.length).set(block);
      this.checkpoint();
      visit(first, count, rows, isNarrow);
      wasm.release(mark);
    }
  }
}
