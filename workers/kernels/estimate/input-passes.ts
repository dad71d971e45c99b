import type { Wasm } from '../inner/instance.js';

/** Rows of X in WebAssembly memory at once, as float64. */
const TOKENS = 256;

/** Passes of float64 over the inputs of one batch item. Weights and products live here, in JavaScript. */
export class InputPasses {
  readonly #wasm: Wasm;
  readonly #block: number;
  readonly #vector: number;
  readonly #weights: number;

  /** Allocates on top of what lies in memory, for inputs of at most `widest` columns. */
  constructor(
    wasm: Wasm,
    widest: number,
    readonly checkpoint: () => void,
  ) {
    this.#wasm = wasm;
    this.#block = wasm.alloc(8 * TOKENS * widest);
    this.#vector = wasm.alloc(8 * widest);
    this.#weights = wasm.alloc(8 * TOKENS);
  }

  /** For each y (k): X y, over `n` rows of X (n, k). */
  dots(X: Float32Array | Float64Array, n: number, ys: readonly Float64Array[]): Float64Array[] {
    const outs = ys.map(() => new Float64Array(n));
    const k = X.length / n;
    this.#blocks(X, n, (first, count) => {
      ys.forEach((y, index) => {
        this.#wasm.f64(this.#vector, k).set(y);
        this.#wasm.fn.dots64(count, k, this.#block, this.#vector, this.#weights);
        outs[index]!.set(this.#wasm.f64(this.#weights, count), first);
      });
    });
    return outs;
  }

  /** For each w (n): w^T X. */
  combine(X: Float32Array | Float64Array, n: number, ws: readonly Float64Array[]): Float64Array[] {
    const k = X.length / n;
    const outs = ws.map(() => new Float64Array(k));
    this.#blocks(X, n, (first, count) => {
      ws.forEach((w, index) => {
        this.#wasm.f64(this.#vector, k).set(outs[index]!);
        this.#wasm.f64(this.#weights, count).set(w.subarray(first, first + count));
        this.#wasm.fn.combine64(count, k, this.#weights, this.#block, this.#vector);
        outs[index]!.set(this.#wasm.f64(this.#vector, k));
      });
    });
    return outs;
  }

  #blocks(
    X: Float32Array | Float64Array,
    n: number,
    visit: (first: number, count: number) => void,
  ): void {
    const k = X.length / n;
    for (let first = 0; first < n; first += TOKENS) {
      const count = Math.min(TOKENS, n - first);
      const block = X.subarray(first * k, (first + count) * k);
      if (block instanceof Float32Array) {
        const mark = this.#wasm.mark();
        this.#wasm.fn.widen(block.length, this.#wasm.put(block), this.#block);
        this.#wasm.release(mark);
      } else {
        this.#wasm.f64(this.#block, block.length).set(block);
      }
      this.checkpoint();
      visit(first, count);
    }
  }
}
