import type { Projection } from '../../problem.js';
import type { Tensor } from '../../tensor/tensor.js';
import { slice } from '../inner/operands.js';
import type { InputPasses } from './input-passes.js';

/** One head of a projection, in float64: its band of W, the bias and B. Vectors are the rows of a matrix. */
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

  /** X (m, in) -> X A^T (m, r); empty without an adapter. */
  low(X: Float64Array, passes: InputPasses): Float64Array {
    const { adapter } = this.#p;
    return adapter ? passes.dots(adapter.A.data, adapter.rank, X) : new Float64Array(0);
  }

  /** X (m, in) -> X (W + s B A)^T (m, width), without the bias */
  apply(X: Float64Array, passes: InputPasses): Float64Array {
    const { weight, adapter, inFeatures } = this.#p;
    if (!weight) return columns(X, inFeatures, this.#first, this.#width);
    const Y = passes.dots(this.#bandOf(weight), this.#width, X);
    if (!adapter) return Y;
    const low = this.low(X, passes);
    return add(Y, adapter.scaling, passes.dots(this.#bandOf(adapter.B), this.#width, low));
  }

  /** Y (m, width) -> Y B (m, r); empty without an adapter. */
  up(Y: Float64Array, passes: InputPasses): Float64Array {
    const { adapter } = this.#p;
    if (!adapter) return new Float64Array(0);
    return passes.combine(this.#bandOf(adapter.B), this.#width, Y);
  }

  /** Y (m, width) -> Y (W + s B A) (m, in) */
  back(Y: Float64Array, passes: InputPasses): Float64Array {
    const { weight, adapter, inFeatures } = this.#p;
    if (!weight) return widened(Y, this.#width, this.#first, inFeatures);
    const X = passes.combine(this.#bandOf(weight), this.#width, Y);
    if (!adapter) return X;
    const up = this.up(Y, passes);
    return add(X, adapter.scaling, passes.combine(adapter.A.data, adapter.rank, up));
  }

  /** W + s B A (width, in) */
  rows(passes: InputPasses): Float64Array {
    const { weight, adapter, inFeatures } = this.#p;
    if (!weight) return this.#ones(inFeatures);
    const W = Float64Array.from(this.#bandOf(weight));
    if (!adapter) return W;
    const B = Float64Array.from(this.#bandOf(adapter.B));
    return add(W, adapter.scaling, passes.combine(adapter.A.data, adapter.rank, B));
  }

  /** Each row y (width) += its factor times b; without factors b itself. */
  addBias(Y: Float64Array, factors?: Float64Array): Float64Array {
    const b = this.#bias();
    for (let k = 0, at = 0; b && at < Y.length; k++) {
      const factor = factors ? factors[k]! : 1;
      for (let c = 0; c < b.length; c++, at++) Y[at]! += factor * b[c]!;
    }
    return Y;
  }

  /** b . y for each row of Y (m, width) */
  biasDots(Y: Float64Array): Float64Array {
    const b = this.#bias();
    const dots = new Float64Array(Y.length / this.#width);
    for (let k = 0, at = 0; b && at < Y.length; k++) {
      for (let c = 0; c < b.length; c++, at++) dots[k]! += b[c]! * Y[at]!;
    }
    return dots;
  }

  #bias() {
    return this.#p.bias?.data.subarray(this.#first, this.#first + this.#width);
  }

  /** Its rows of W or B */
  #bandOf({ data }: Tensor) {
    const pitch = data.length / this.#p.outFeatures;
    return data.subarray(this.#first * pitch, (this.#first + this.#width) * pitch);
  }

  /** Its rows of the identity, which stands where there is no weight. */
  #ones(inFeatures: number): Float64Array {
    const rows = new Float64Array(this.#width * inFeatures);
    for (let c = 0; c < this.#width; c++) rows[c * inFeatures + this.#first + c] = 1;
    return rows;
  }
}

type Product = (
  weights: HeadWeights,
  vectors: Float64Array,
  rows: readonly number[],
) => Float64Array;

/** The weights of rows of several heads: each row of a matrix meets those of its own head. */
export class RowWeights {
  readonly #groups: readonly { readonly weights: HeadWeights; readonly rows: readonly number[] }[];
  readonly #count: number;

  /** @param heads of the projection, of each row. */
  constructor(projection: Projection, heads: readonly number[], width: number) {
    this.#count = heads.length;
    this.#groups = [...new Set(heads)].map((head) => ({
      weights: new HeadWeights(projection, head, width),
      rows: heads.flatMap((one, k) => (one === head ? [k] : [])),
    }));
  }

  /** What `product` makes of all rows of X, those of the same weights together. */
  each(X: Float64Array, product: Product): Float64Array {
    const groups = this.#groups;
    if (groups.length === 1) return product(groups[0]!.weights, X, groups[0]!.rows);
    const width = X.length / this.#count;
    let out: Float64Array | null = null;
    for (const { weights, rows } of groups) {
      const found = product(weights, pick(X, rows, width), rows);
      const wide = found.length / rows.length;
      out ??= new Float64Array(this.#count * wide);
      for (const [i, k] of rows.entries()) out.set(slice(found, i, wide), k * wide);
    }
    return out!;
  }

  low(X: Float64Array, passes: InputPasses): Float64Array {
    return this.each(X, (weights, x) => weights.low(x, passes));
  }

  apply(X: Float64Array, passes: InputPasses): Float64Array {
    return this.each(X, (weights, x) => weights.apply(x, passes));
  }

  up(Y: Float64Array, passes: InputPasses): Float64Array {
    return this.each(Y, (weights, y) => weights.up(y, passes));
  }

  back(Y: Float64Array, passes: InputPasses): Float64Array {
    return this.each(Y, (weights, y) => weights.back(y, passes));
  }

  addBias(Y: Float64Array, factors?: Float64Array): Float64Array {
    return this.each(Y, (weights, y, rows) =>
      weights.addBias(y, factors && pick(factors, rows, 1)),
    );
  }

  biasDots(Y: Float64Array): Float64Array {
    return this.each(Y, (weights, y) => weights.biasDots(y));
  }
}

/** Some rows of X (m, width). */
export function pick(X: Float64Array, rows: readonly number[], width: number): Float64Array {
  const out = new Float64Array(rows.length * width);
  for (const [i, k] of rows.entries()) out.set(slice(X, k, width), i * width);
  return out;
}

/** Y += scale X */
function add(Y: Float64Array, scale: number, X: Float64Array): Float64Array {
  for (let c = 0; c < Y.length; c++) Y[c]! += scale * X[c]!;
  return Y;
}

/** Columns [first, first + width) of X (m, pitch). */
function columns(X: Float64Array, pitch: number, first: number, width: number): Float64Array {
  const m = X.length / pitch;
  const out = new Float64Array(m * width);
  for (let k = 0; k < m; k++) out.set(slice(X, k, pitch).subarray(first, first + width), k * width);
  return out;
}

/** Y (m, width) as columns from `first` on of a matrix (m, pitch) of zeros. */
function widened(Y: Float64Array, width: number, first: number, pitch: number): Float64Array {
  const m = Y.length / width;
  const out = new Float64Array(m * pitch);
  for (let k = 0; k < m; k++) out.set(slice(Y, k, width), k * pitch + first);
  return out;
}
