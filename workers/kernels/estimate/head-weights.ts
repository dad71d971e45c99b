import type { Projection } from '../../problem.js';
import type { Tensor } from '../../tensor/tensor.js';
import type { InputPasses } from './input-passes.js';

/** One head of a projection, in float64: its band of W, the bias and B. */
export class HeadWeights {
  readonly #p: Projection;
  readonly #first: number;
  readonly #width: number;

  constructor(projection: Projection, head: number, width: number) {
    this.#p = projection;
    this.#first = head * width;
    this.#width = width;
  }

  get width(): number {
    return this.#width;
  }

  /** x (in) -> A x (r) */
  low(x: Float64Array): Float64Array {
    const { adapter, inFeatures } = this.#p;
    return adapter ? times(adapter.A, 0, adapter.rank, inFeatures, x) : new Float64Array(0);
  }

  /** Each x (in) -> (W + s B A) x (width), without the bias */
  apply(xs: readonly Float64Array[], passes: InputPasses): Float64Array[] {
    const { weight, adapter } = this.#p;
    if (!weight) return xs.map((x) => x.slice(this.#first, this.#first + this.#width));
    const ys = passes.dots(this.#bandOf(weight), this.#width, xs);
    for (const [k, x] of adapter ? xs.entries() : []) {
      const { B, rank, scaling } = adapter!;
      add(ys[k]!, scaling, times(B, this.#first, this.#width, rank, this.low(x)));
    }
    return ys;
  }

  /** y (width) -> B^T y (r) */
  up(y: Float64Array): Float64Array {
    const { adapter } = this.#p;
    if (!adapter) return new Float64Array(0);
    return timesTransposed(adapter.B, this.#first, this.#width, adapter.rank, y);
  }

  /** Each y (width) -> (W + s B A)^T y (in) */
  back(ys: readonly Float64Array[], passes: InputPasses): Float64Array[] {
    const { weight, adapter, inFeatures } = this.#p;
    if (!weight) {
      return ys.map((y) => {
        const x = new Float64Array(inFeatures);
        x.set(y, this.#first);
        return x;
      });
    }
    const xs = passes.combine(this.#bandOf(weight), this.#width, ys);
    for (const [k, y] of adapter ? ys.entries() : []) {
      const { A, rank, scaling } = adapter!;
      add(xs[k]!, scaling, timesTransposed(A, 0, rank, inFeatures, this.up(y)));
    }
    return xs;
  }

  /** Its rows of W */
  #bandOf({ data }: Tensor) {
    const { inFeatures } = this.#p;
    return data.subarray(this.#first * inFeatures, (this.#first + this.#width) * inFeatures);
  }

  /** Row c of W + s B A (in) */
  row(c: number): Float64Array {
    const { weight, adapter, inFeatures } = this.#p;
    const at = this.#first + c;
    if (!weight) return new Float64Array(inFeatures).fill(1, at, at + 1);
    const out = Float64Array.from(weight.data.subarray(at * inFeatures, (at + 1) * inFeatures));
    for (let r = 0; adapter && r < adapter.rank; r++) {
      const factor = adapter.scaling * adapter.B.data[at * adapter.rank + r]!;
      for (let i = 0; i < inFeatures; i++) out[i]! += factor * adapter.A.data[r * inFeatures + i]!;
    }
    return out;
  }

  /** y (width) += times b */
  addBias(y: Float64Array, times = 1): Float64Array {
    const { bias } = this.#p;
    for (let c = 0; bias && c < y.length; c++) y[c]! += times * bias.data[this.#first + c]!;
    return y;
  }

  /** b . y */
  biasDot(y: Float64Array): number {
    const { bias } = this.#p;
    return bias ? y.reduce((sum, yc, c) => sum + yc * bias.data[this.#first + c]!, 0) : 0;
  }
}

/** y += scale x */
function add(y: Float64Array, scale: number, x: Float64Array): void {
  for (let c = 0; c < y.length; c++) y[c]! += scale * x[c]!;
}

/** Rows [first, first + n) of m (.., k), times x. */
function times(m: Tensor, first: number, n: number, k: number, x: Float64Array): Float64Array {
  const y = new Float64Array(n);
  const rows = m.data.subarray(first * k, (first + n) * k);
  for (let i = 0, at = 0; i < n; i++) {
    let sum = 0;
    for (let c = 0; c < k; c++, at++) sum += rows[at]! * x[c]!;
    y[i] = sum;
  }
  return y;
}

function timesTransposed(
  m: Tensor,
  first: number,
  n: number,
  k: number,
  y: Float64Array,
): Float64Array {
  const x = new Float64Array(k);
  const rows = m.data.subarray(first * k, (first + n) * k);
  for (let i = 0, at = 0; i < n; i++) {
    const weight = y[i]!;
    for (let c = 0; c < k; c++, at++) x[c]! += rows[at]! * weight;
  }
  return x;
}
