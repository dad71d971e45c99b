/**
 * What a row carries before it cancels: the scale of what float32 rounds away. Of sampled rows, and of all rows set aside.
 *
 * Entries of dS = P (dP - G.O) can cancel to nothing, in a row whose softmax is saturated or between rows, while each is
 * rounded relative to its terms: dP_ij = G_i.v_j relative to itself and to t_ij = (sum_a G_ia^2 v_ja^2)^(1/2), by which the
 * sum of its products is rounded. By Cauchy and Schwarz
 *
 *     sum_j P_ij (dP_ij^2 + t_ij^2)^(1/2) |u_j| <= (sum_j P_ij (dP_ij^2 + t_ij^2))^(1/2) (sum_j P_ij |u_j|^2)^(1/2),
 *
 * and rounding of different rows is independent, so squares of rows add up. Of rows set aside dP_ij is not at hand, but it and
 * t_ij are at most |G_i| |v_j|. A weight of P is rounded as its logit is, which is relative to |q_i| |k_j|: |k_j| goes with
 * dP_ij, with |u_j|, or with neither in the sum of the row.
 */
import { frobenius } from '../../estimate/estimate.js';
import type { Real } from '../arithmetic/arithmetic.js';
import { BLOCK } from '../head/block.js';
import { fullWidth, type Head } from '../head/head.js';
import { layout } from '../head/layout.js';
import type { HeadPlan } from '../head/plan.js';
import type { KeyRows } from '../head/rows/key-rows.js';
import type { QueryRows } from '../head/rows/query-rows.js';
import type { Workspace } from '../head/workspace.js';

/** Of v, and of what meets a row in the six tensors: K B_Q, K, X^K, X^K A_K', X^V, X^V A_V'. */
const FACTORS = 7;
const OF_K = 2;
/** Those, and those times |k|^2. */
const COLUMNS = 2 * FACTORS;
/** Behind these: of (dP_ij^2 + t_ij^2) / |G_i|^2, and that times |k|^2. */
const [PRODUCTS, PRODUCTS_K] = [COLUMNS, COLUMNS + 1];
export const SQUARES = COLUMNS + 2;

/** Sums over the keys of a segment: sum_j P_ij of the squares of a key, for n rows (n, SQUARES), so many of them at once. */
export class TermSums {
  readonly #squares: readonly Float64Array[];
  readonly #ones: Float64Array;
  readonly #none: Float64Array;
  /** The squares of a block of keys (BLOCK, COLUMNS), each over the largest of the block: products of huge keys stay in float32. */
  readonly #columns: Real;
  readonly #largest = new Float64Array(COLUMNS);
  #count = 0;
  readonly #block: Real;
  readonly #sums: Float64Array;
  readonly #products: ReturnType<typeof squaredProducts> | null;

  /** @param gradient G (n, dv) where `products` will be told of it; null: dP_ij and t_ij are taken for |G_i| |v_j|. */
  constructor(
    private readonly space: Workspace,
    n: number,
    gradient: Real | null,
    atOnce = n,
  ) {
    const { arithmetic, head } = space;
    const { d, dv, key, value } = head;
    const width = Math.max(d, dv, key.effective.inputs, value.effective.inputs);
    this.#squares = Array.from({ length: FACTORS }, () => arithmetic.sums(BLOCK));
    this.#ones = arithmetic.sums(Math.max(width, BLOCK)).fill(1);
    this.#none = arithmetic.sums(width);
    this.#columns = arithmetic.array(BLOCK * COLUMNS);
    this.#block = arithmetic.array(atOnce * COLUMNS);
    this.#sums = arithmetic.sums(n * SQUARES);
    this.#products = gradient && squaredProducts(space, n, gradient);
  }

  /** The keys that the next rows of P are of. */
  load(keys: KeyRows): void {
    const { count } = keys;
    this.#count = count;
    this.#square(keys);
    const ofK = this.#squares[OF_K];
    this.#squares.forEach((squares, c) => {
      this.#column(c, squares, this.#ones);
      this.#column(FACTORS + c, squares, ofK);
    });
  }

  /** p (rows, count): rows of P from row `first` on, or of a multiple of them. */
  add(first: number, rows: number, p: Real): void {
    this.space.arithmetic.gemm(rows, COLUMNS, this.#count, p, this.#columns, this.#block);
    for (let r = 0, i = 0; r < rows; r++) {
      const to = (first + r) * SQUARES;
      for (let c = 0; c < COLUMNS; c++, i++) {
        this.#sums[to + c] += this.#largest[c] * this.#block[i];
      }
    }
  }

  /** e, t (n, count): rows of P over `inverse`, and dP; v (dv, count): the values of the keys. */
  products(e: Real, inverse: Real, t: Real, v: Real): void {
    this.#products!(this.#count, e, inverse, t, v, this.#squares[OF_K], this.#sums);
  }

  /** Row i of what was added, times factor[i]. */
  scale(factor: ArrayLike<number>): void {
    scaleRows(factor.length, SQUARES, this.#sums, factor);
  }

  /** @param factor what makes rows of P of those that were added. */
  save(slot: Float64Array, factor: (i: number) => number = () => 1): void {
    const sums = this.#sums;
    for (let i = 0, from = 0; from < slot.length; i++, from += SQUARES) {
      if (!this.#products) {
        sums[from + PRODUCTS] = sums[from];
        sums[from + PRODUCTS_K] = sums[from + FACTORS];
      }
      for (let c = from; c < from + SQUARES; c++) slot[c] = factor(i) * sums[c];
    }
  }

  /** Column c: the products of a and b. */
  #column(c: number, a: Float64Array, b: Float64Array): void {
    const [count, columns] = [this.#count, this.#columns];
    let largest = 0;
    for (let r = 0; r < count; r++) largest = Math.max(largest, a[r] * b[r]);
    this.#largest[c] = largest;
    const scale = largest > 0 ? 1 / largest : 0;
    for (let r = 0; r < count; r++) columns[r * COLUMNS + c] = scale * (a[r] * b[r]);
  }

  #square({ count, v, k, u, xk, low, xv, va }: KeyRows): void {
    const { arithmetic, head } = this.space;
    const { d, dv, query, key, value } = head;
    const [ofV, ofKB, ofK, ofX, ofXA, ofXV, ofVA] = this.#squares;
    const square = (x: Real, width: number, out: Float64Array) =>
      arithmetic.forms(count, width, x, this.#none, this.#ones, out);
    square(v, dv, ofV);
    square(k, d, ofK);
    square(xk, key.effective.inputs, ofX);
    square(xv, value.effective.inputs, ofXV);
    square(va, value.rank, ofVA);
    if (fullWidth(head).scores) {
      const up = frobenius(query.up) ** 2;
      for (let r = 0; r < count; r++) ofKB[r] = up * ofK[r];
      square(low, key.rank, ofXA);
      return;
    }
    const p = query.rank + key.rank;
    for (let r = 0; r < count; r++) {
      ofKB[r] = squaredNorm(u, r * p, query.rank);
      ofXA[r] = squaredNorm(u, r * p + query.rank, key.rank);
    }
  }
}

/** x[i] *= factor[i] for x (n, width), in place. */
export function scaleRows(
  n: number,
  width: number,
  x: Float64Array,
  factor: ArrayLike<number>,
): void {
  for (let i = 0; i < n; i++) {
    if (factor[i] === 1) continue;
    for (let c = i * width; c < (i + 1) * width; c++) x[c] *= factor[i];
  }
}

/** Float32 has the inverse of that; what is smaller counts by LEAST. */
const SMALLEST = 2 ** -126;

/** Adds sum_j P_ij (dP_ij^2 + t_ij^2) / |G_i|^2, and the same times |k_j|^2, to the sums of n rows; everything over the largest value, as above. */
function squaredProducts({ arithmetic, head: { dv } }: Workspace, n: number, gradient: Real) {
  const most = Math.max(n, dv);
  const ones = arithmetic.array(most).fill(1);
  const none = arithmetic.array(most);
  /** b = a b (rows, columns), entry by entry. */
  const multiply = (rows: number, columns: number, a: Real, b: Real) =>
    arithmetic.scoreGradient(rows, columns, a, b, ones, none);
  const squares = arithmetic.array(n * dv);
  const inverseNorms = arithmetic.array(n);
  for (let i = 0; i < n; i++) {
    const norm = Math.sqrt(squaredNorm(gradient, i * dv, dv));
    inverseNorms[i] = norm > 0 ? 1 / Math.max(norm, SMALLEST) : 0;
    for (let a = i * dv; a < (i + 1) * dv; a++) squares[a] = (inverseNorms[i] * gradient[a]) ** 2;
  }
  const [values, squaredValues] = [0, 1].map(() => arithmetic.array(dv * BLOCK));
  const [products, terms, factors] = [0, 1, 2].map(() => arithmetic.array(n * BLOCK));
  const keys = arithmetic.array(BLOCK);
  const out = arithmetic.array(n);
  return (
    count: number,
    e: Real,
    inverse: Real,
    t: Real,
    v: Real,
    ofK: Float64Array,
    sums: Float64Array,
  ): void => {
    const size = n * count;
    const largest = Math.max(arithmetic.largest(dv * count, v), SMALLEST);
    for (const copy of [values, squaredValues]) {
      arithmetic.combine(dv * count, 1 / largest, v, 0, copy);
    }
    multiply(dv, count, values, squaredValues);
    arithmetic.gemm(n, count, dv, squares, squaredValues, terms);
    arithmetic.combine(size, 1 / largest, t, 0, products);
    arithmetic.scaleRows(n, count, products, inverseNorms);
    arithmetic.combine(size, 1, products, 0, factors);
    multiply(n, count, factors, products);
    arithmetic.combine(size, 1, terms, 1, products);
    const add = (column: number, scale: number) => {
      arithmetic.rowDots(n, count, e, products, out);
      for (let i = 0; i < n; i++) sums[i * SQUARES + column] += scale * inverse[i] * out[i];
    };
    add(PRODUCTS, largest ** 2);
    let longest = 0;
    for (let j = 0; j < count; j++) longest = Math.max(longest, ofK[j]);
    for (let j = 0; j < count; j++) keys[j] = longest > 0 ? ofK[j] / longest : 0;
    arithmetic.gemm(n, count, 1, ones, keys, factors);
    multiply(n, count, factors, products);
    add(PRODUCTS_K, largest ** 2 * longest);
  };
}

function squaredNorm(x: ArrayLike<number>, from: number, width: number): number {
  let sum = 0;
  for (let c = from; c < from + width; c++) sum += x[c] ** 2;
  return sum;
}

/** Roundings of what a row carries before it cancels, in the chain and in the rows that it is compared with; and of a logit. */
export const UNITS = 8;

/** What exactRows carries along of each row: sum_j P_ij of |v_j|, |k_j| and |v_j| |k_j|. */
export const NORMS_OF_ROW = 3;

/** Of each row, the square of what may be rounded away of O, in units of float32: |dO_i| <= sum_j P_ij |dS_ij| (|v_j| + |O_i|). */
export function squaredOutputTerms(
  { d }: Head,
  { count, scaled }: QueryRows,
  norms: Float64Array,
): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    const [v, k, vk] = norms.subarray(i * NORMS_OF_ROW);
    return (UNITS * (v + Math.sqrt(squaredNorm(scaled, i * d, d)) * (vk + k * v))) ** 2;
  });
}

/** The least number of float32 over a unit: what is smaller loses digits. */
const LEAST = 2 ** -125;

/**
 * What is rounded of O in all rows alike, so that their shares add up, where a target may leave little else of G: of the weights
 * that the centre of X^V is projected with, and of the centre of V.
 */
function commonTerms(
  { value: { effective } }: Pick<Head, 'value'>,
  { centreXV, centreV }: Pick<HeadPlan, 'centreXV' | 'centreV'>,
): number {
  const { weight, outputs } = effective;
  let squares = 0;
  for (let i = 0; i < weight.length; i++) {
    squares += (centreXV[Math.floor(i / outputs)] * weight[i]) ** 2;
  }
  return Math.sqrt(squares) + frobenius(centreV);
}

/** Of each row, the square of what may be rounded away of tensor t, in units of float32, without the tensor's scale; `sums`: TermSums of all segments. */
export function squaredTerms(
  { head, plan }: Pick<Workspace, 'head' | 'plan'>,
  sums: Float64Array,
  { rows, gradient }: { readonly rows: QueryRows; readonly gradient: Real },
  t: number,
): Float64Array {
  const n = rows.count;
  const { d, dv, query, key, value } = head;
  const full = fullWidth(head).scores;
  const squareOf =
    (x: ArrayLike<number>, pitch: number, from = 0, width = pitch) =>
    (i: number) =>
      squaredNorm(x, i * pitch + from, width);
  const p = query.rank + key.rank;
  const [q, g] = [squareOf(rows.q, d), squareOf(gradient, dv)];
  const logits = squareOf(rows.scaled, d);
  const left = [
    squareOf(rows.xq, query.effective.inputs),
    full ? squareOf(rows.low, query.rank) : squareOf(rows.l, p, 0, query.rank),
    squaredProduct(rows.q, key),
    q,
    squaredProduct(gradient, value),
    g,
  ][t];
  const others = [query.up, query.down, key.up, key.down, value.up, value.down];
  if (frobenius(others[t]) === 0) return new Float64Array(n);
  const common = head.kind === 'target' ? commonTerms(head, plan) : 0;
  const [keys, entries] = [head.keyLength, Math.sqrt(layout(head).gradientSizes[t])];
  return Float64Array.from({ length: n }, (_, i) => {
    const root = (factor: number) => Math.sqrt(sums[i * SQUARES + factor]);
    const [l, ofG] = [left(i), t < 4 ? g(i) : 1].map(Math.sqrt);
    if (l === 0 || ofG === 0) return 0;
    const [v, u] = [t < 4 ? root(0) : 1, root(1 + t)];
    const product = t < 4 ? root(PRODUCTS) : 1;
    const logit = Math.max(
      root(OF_K) * product * u,
      product * root(FACTORS + 1 + t),
      t < 4 ? root(PRODUCTS_K) * u : 0,
    );
    const carried = l * ofG * (product * u + Math.sqrt(logits(i)) * logit);
    // Each factor is no nearer to what it should be than LEAST, nor a product of those of the row over its sum, nor one with a key, nor
    // an entry of the tensor.
    const least = l * ofG * (v + u) + (l + ofG + keys) * v * u + keys * l * (1 + u) + entries;
    const all = common * u * (t < 4 ? l * v : t === 4 ? frobenius(value.up) : 1);
    return (UNITS * (carried + LEAST * least)) ** 2 + head.queryLength * all ** 2;
  });
}

/** |x_i B|^2 + sum_a x_ia^2 |B_a|^2 of rows x (.., inner) and B (inner, rank): of the product, and of its terms. */
function squaredProduct(
  x: ArrayLike<number>,
  { up, rank }: { readonly up: ArrayLike<number>; readonly rank: number },
): (i: number) => number {
  const inner = rank > 0 ? up.length / rank : 0;
  return (i) => {
    let sum = 0;
    for (let c = 0; c < rank; c++) {
      let product = 0;
      for (let a = 0; a < inner; a++) {
        const term = x[i * inner + a] * up[a * rank + c];
        product += term;
        sum += term * term;
      }
      sum += product * product;
    }
    return sum;
  };
}
