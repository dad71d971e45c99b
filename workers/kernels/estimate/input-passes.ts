import type { Wasm } from '../inner/instance.js';
import { type Floats, slice } from '../inner/operands.js';

/** Rows of X that are looked at together. */
const TOKENS = 256;

/**
 * Passes of float64 over rows of X (n, k): the inputs of a batch item, or weights. All vectors of a pass lie one after the
 * other in one matrix; products live here, in JavaScript.
 */
export class InputPasses {
  /** Allocates on top of what lies in memory. */
  constructor(
    readonly wasm: Wasm,
    readonly checkpoint: () => void,
  ) {}

  /** Y X^T (m, n), for Y (m, k) and `n` rows of X (n, k). */
  dots(X: Floats, n: number, Y: Float64Array): Float64Array {
    const { wasm } = this;
    const k = X.length / n;
    const m = Y.length / k;
    const out = new Float64Array(m * n);
    const mark = wasm.mark();
    const [vectors, products] = [wasm.alloc(8 * m * k), wasm.alloc(8 * m * Math.min(n, TOKENS))];
    wasm.f64(vectors, m * k).set(Y);
    this.#blocks(X, n, (first, count, rows, isNarrow) => {
      wasm.fn[isNarrow ? 'dots32' : 'dots64'](count, k, m, rows, vectors, products);
      const found = wasm.f64(products, m * count);
      if (count === n) out.set(found);
      else for (let v = 0; v < m; v++) out.set(slice(found, v, count), v * n + first);
    });
    wasm.release(mark);
    return out;
  }

  /** W X (m, k), for W (m, n) and `n` rows of X (n, k). */
  combine(X: Floats, n: number, W: Float64Array): Float64Array {
    const { wasm } = this;
    const k = X.length / n;
    const m = W.length / n;
    const mark = wasm.mark();
    const [weights, sums] = [wasm.alloc(8 * m * Math.min(n, TOKENS)), wasm.alloc(8 * m * k)];
    wasm.f64(sums, m * k).fill(0);
    this.#blocks(X, n, (first, count, rows, isNarrow) => {
      const put = wasm.f64(weights, m * count);
      if (count === n) put.set(W);
      else {
        for (let v = 0; v < m; v++)
          put.set(W.subarray(v * n + first, v * n + first + count), v * count);
      }
      wasm.fn[isNarrow ? 'combine32' : 'combine64'](count, k, m, weights, rows, sums);
    });
    const out = wasm.f64(sums, m * k).slice();
    wasm.release(mark);
    return out;
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
