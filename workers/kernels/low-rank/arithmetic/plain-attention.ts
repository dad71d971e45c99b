/** Attention of arithmetic.ts in float64, in the order in which the formulas are written. */
import {
  type Attention,
  type Panels,
  type Real,
  ROWS,
  type ScoredKeys,
  type ThinProducts,
  type Upstream,
  type Values,
} from './arithmetic.js';

export class PlainAttention implements Attention {
  readonly e: Float64Array;
  readonly ds: Float64Array;
  #rows = 0;
  #count = 0;

  constructor(keys: number) {
    this.e = new Float64Array(keys * ROWS);
    this.ds = new Float64Array(keys * ROWS);
  }

  scores(
    { rows, width: d, data }: Panels,
    block: number,
    { k, count }: ScoredKeys,
    max: Real,
    raise: boolean,
    hidden: Int32Array | null,
  ): void {
    const first = block * ROWS;
    this.#rows = Math.min(ROWS, rows - first);
    this.#count = count;
    for (let j = 0; j < count; j++) {
      for (let i = 0; i < this.#rows; i++) {
        let score = 0;
        for (let a = 0; a < d; a++) score += data[(first + i) * d + a] * k[j * d + a];
        if (hidden && i < hidden[j]) score = -Infinity;
        this.e[j * ROWS + i] = score;
        if (raise) max[i] = Math.max(max[i], score);
      }
    }
  }

  weights(
    max: Real,
    total: Float64Array,
    values: Values | null,
    output: Real | null,
    upstream: Upstream | null,
  ): void {
    this.#pairs((pair, j, i) => {
      const e = 2 ** (this.e[pair] - max[i]);
      this.e[pair] = e;
      total[i] += e;
      if (!output || !values) return;
      const { v, width } = values;
      for (let a = 0; a < width; a++) output[a * ROWS + i] += v[j * width + a] * e;
    });
    if (values && upstream) this.products(values, upstream);
  }

  products({ v, width }: Values, { gradient, block, dot }: Upstream): void {
    const first = block * ROWS;
    this.#pairs((pair, j, i) => {
      let product = 0;
      for (let a = 0; a < width; a++) {
        product += gradient.data[(first + i) * width + a] * v[j * width + a];
      }
      this.ds[pair] = product;
      dot[i] += this.e[pair] * product;
    });
  }

  gradients(shift: Real, ofScores: ThinProducts | null, ofWeights: ThinProducts | null): void {
    this.#pairs((pair, j, i) => {
      if (ofScores) {
        this.ds[pair] = this.e[pair] * (this.ds[pair] - shift[i]);
        multiply(ofScores, this.ds[pair], j, i);
      }
      if (ofWeights) multiply(ofWeights, this.e[pair], j, i);
    });
  }

  #pairs(visit: (pair: number, key: number, row: number) => void): void {
    for (let j = 0; j < this.#count; j++) {
      for (let i = 0; i < this.#rows; i++) visit(j * ROWS + i, j, i);
    }
  }
}

function multiply({ width, right, left }: ThinProducts, x: number, j: number, i: number): void {
  for (let c = 0; c < width; c++) {
    if (right) right.sum[i * width + c] += x * right.factor[j * width + c];
    if (left) left.sum[j * width + c] += x * left.factor[i * width + c];
  }
}
