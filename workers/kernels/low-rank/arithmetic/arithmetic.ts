/**
 * The few block operations that the low-rank kernel is made of.
 *
 * Two implementations exist: float64 in plain TypeScript (plain.ts), for reading and for checking, and
 * float32 in WebAssembly SIMD (compiled.ts). The kernel is written once, over this interface. All
 * matrices are row-major.
 */
import { ROWS } from '../../inner/block.js';

export { ROWS };

export type Real = Float32Array | Float64Array;

/** A right operand made ready for many products. */
export interface Packed {
  readonly inner: number;
  readonly columns: number;
  readonly data: Real;
}

/** Rows of log2(e) beta Q or of G, made ready for Attention. */
export interface Panels {
  rows: number;
  readonly width: number;
  readonly data: Real;
  /** Norm of the longest row of each block of ROWS. */
  readonly largest: Float64Array;
}

/** Keys k (keys, d), the first `count` of them, and the norm of the longest or more. */
export interface ScoredKeys {
  readonly k: Real;
  readonly count: number;
  readonly largest: number;
}

/** Thin factors that dS or P meets, and the sums that their products are added to; null: not wanted. */
export interface ThinProducts {
  /** A multiple of 8. */
  readonly width: number;
  /** dS'u: u (keys, width), sum (ROWS, width). */
  readonly right: { readonly factor: Real; readonly sum: Real } | null;
  /** dS l: l (ROWS, width), rows past the last 0; sum (keys, width). */
  readonly left: { readonly factor: Real; readonly sum: Real } | null;
}

/**
 * Exact rows of P for ROWS queries at a time, not yet divided by their sums. A matrix with a number for each
 * pair is (keys, ROWS), so that what belongs to a query is a vector beside it. Matrices with a row for each
 * key have room for a multiple of 8 rows, what lies in those past the last is finite.
 */
export interface Attention {
  /** E = 2^(S - max) and dS, of the keys and the queries of the last call of `scores`. */
  readonly e: Real;
  readonly ds: Real;
  /**
   * S = queries k' of the queries from block ROWS on. If asked to, raises max (ROWS) to the row maxima, or sets it to
   * something else that E may be relative to: 0 where Cauchy-Schwarz bounds S. The first hidden[j]
   * queries do not see key j; null: all see all.
   */
  scores(
    queries: Panels,
    block: number,
    keys: ScoredKeys,
    max: Real,
    raise: boolean,
    hidden: Int32Array | null,
  ): void;
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
  ): void;
  /** G v' in place of dS, and the row sums of E times it added to dot (ROWS). */
  products(values: Values, upstream: Upstream): void;
  /**
   * dS = E (G v' - shift) for shift (ROWS) after `products`, where anything of it is wanted, and what dS and E are
   * multiplied by.
   */
  gradients(shift: Real, ofScores: ThinProducts | null, ofWeights: ThinProducts | null): void;
}

/** Rows of V (count, width). */
export interface Values {
  readonly v: Real;
  readonly width: number;
}

/** G of the queries of block `block`, and where G.O goes, in the units of E. */
export interface Upstream {
  readonly gradient: Panels;
  readonly block: number;
  readonly dot: Float64Array;
}

export interface Arithmetic {
  /** Unit roundoff of a block operation: 2^-53 or 2^-24. */
  readonly unit: number;
  /** Zeroed scratch of n elements, valid until an earlier mark is released. */
  array(n: number): Real;
  /** Zeroed float64 scratch: sums of blocks are kept in it. */
  sums(n: number): Float64Array;
  indices(list: Int32Array): Int32Array;
  mark(): number;
  release(mark: number): void;
  /** b (inner, columns), copied: b may change afterwards. */
  pack(inner: number, columns: number, b: Real): Packed;
  /** Packs b again, over an operand of the same size. */
  repack(operand: Packed, b: Real): void;
  /** c (rows, columns) = a (rows, inner) b; adds to c if asked to. */
  product(rows: number, a: Real, b: Packed, c: Real, accumulate?: boolean): void;
  /** c (rows, columns) = a' b for a (inner, rows). */
  transposedProduct(rows: number, a: Real, b: Packed, c: Real, accumulate?: boolean): void;
  /** c (rows, columns) = a (rows, inner) b (inner, columns). */
  gemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate?: boolean,
  ): void;
  /** c (rows, columns) = a' b for a (inner, rows), b (inner, columns). */
  transposedGemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate?: boolean,
  ): void;
  /** Norm of the longest row of x (rows, n). */
  largestNorm(rows: number, n: number, x: Real): number;
  panels(rows: number, width: number): Panels;
  /** scale x (rows, width) into panels that have room for it. */
  fillPanels(panels: Panels, rows: number, x: Real, scale: number): void;
  /** With room for `keys` keys (keys, d). */
  attention(keys: number, d: number): Attention;
  /** b (columns, rows) = transpose of a (rows, columns). */
  transpose(rows: number, columns: number, a: Real, b: Real): void;
  /**
   * One step of a running softmax over scores s (rows, columns): max grows to the row maximum,
   * factor = exp(old max - new max), s = exp(s - new max), total = factor total + row sum of s.
   */
  softmax(rows: number, columns: number, s: Real, max: Real, total: Real, factor: Real): void;
  /** p = p scale_i, t = p (t - shift_i): a block of P and of dS from exp(S) and G V'. */
  scoreGradient(rows: number, columns: number, p: Real, t: Real, scale: Real, shift: Real): void;
  /** c[i, offset + x p + y] = a[i, x] b[i, y] for a (rows, n), b (rows, p), c (rows, stride). */
  outer(
    rows: number,
    n: number,
    p: number,
    a: Real,
    b: Real,
    c: Real,
    stride: number,
    offset: number,
  ): void;
  /** c[i, y] += sum_x a[i, x] t[i, offset + x p + y] for a (rows, n), t (rows, stride), c (rows, p). */
  contract(
    rows: number,
    n: number,
    p: number,
    a: Real,
    t: Real,
    stride: number,
    offset: number,
    c: Real,
  ): void;
  /**
   * out[i, k p + y] = sum of phi[f, i] t[i, f p + y] over the f of group k, for phi (n, ldphi), t (rows, n p) and
   * out (rows, groups p); the n features are dealt to the groups in their order.
   */
  groupSums(
    rows: number,
    n: number,
    p: number,
    groups: number,
    phi: Real,
    ldphi: number,
    t: Real,
    out: Real,
  ): void;
  /** c[i, k, y] -= c[i, k, p] x[i, y] for c (rows, groups, p + 1) and x (rows, p). */
  takeCentres(rows: number, groups: number, p: number, x: Real, c: Real): void;
  /** sums += block, then block = 0: float32 blocks, float64 sums of blocks. */
  fold(n: number, block: Real, sums: Float64Array): void;
  /** phi[f] = phi[base[f]] table[slot[f]] for f = 1, 2, ...: rows of `rows` numbers. */
  featureProducts(
    rows: number,
    base: Int32Array,
    slot: Int32Array,
    table: Float64Array,
    phi: Float64Array,
  ): void;
  /** out[f, i] = phi[f, i] weight[i] for the first `features` rows of phi (.., rows). */
  weighFeatures(
    features: number,
    rows: number,
    phi: Float64Array,
    weight: Float64Array,
    out: Real,
  ): void;
  /** out[f, i] = x[f, i] weight[i] for x, out (features, rows), rows a multiple of 4; out may be x. */
  scaleColumns(features: number, rows: number, x: Real, weight: Real, out: Real): void;
  /** out[i] = sum_f a[f, i] b[f, i] for a, b (features, rows), rows a multiple of 4. */
  columnDots(features: number, rows: number, a: Real, b: Real, out: Real): void;
  /** Rotary positions of x (rows, d) in place, or back; cos, sin (rows, d). See kernels/rotary.ts. */
  rotate(rows: number, d: number, cos: Real, sin: Real, x: Real, back: boolean): void;
  /** out[i] = sum_a (linear[a] + quadratic[a] x[i, a]) x[i, a] for x (rows, n), in float64. */
  forms(
    rows: number,
    n: number,
    x: Real,
    linear: Float64Array,
    quadratic: Float64Array,
    out: Float64Array,
  ): void;
  /** out[i] = x_i . y for x (rows, n), all in float64 scratch. */
  dots(rows: number, n: number, x: Float64Array, y: Float64Array, out: Float64Array): void;
  /** out[i] = a_i . b_i for a, b (rows, n). */
  rowDots(rows: number, n: number, a: Real, b: Real, out: Real): void;
  /** x[i, :] *= weight[i] for x (rows, n). */
  scaleRows(rows: number, n: number, x: Real, weight: Real): void;
  /** y[i, :] += row for y (rows, n). */
  addRow(rows: number, n: number, row: Real, y: Real): void;
  /** y = alpha x + beta y, n elements. */
  combine(n: number, alpha: number, x: Real, beta: number, y: Real): void;
  /** Copies columns [from, from + columns) of x (rows, ldx) to columns [to, ..) of y (rows, ldy). */
  copyColumns(
    rows: number,
    columns: number,
    x: Real,
    ldx: number,
    from: number,
    y: Real,
    ldy: number,
    to: number,
  ): void;
  /** out[i] = sum_f phi[f, i]^2 for phi (features, rows), in float64. */
  squareSums(features: number, rows: number, phi: Float64Array, out: Float64Array): void;
  /** Largest |x[i]| of n elements. */
  largest(n: number, x: Real): number;
  /**
   * Row s + 1 of table (.., rows) = up_s x[a] row one_s - down_s row two_s for x (d, rows); row 0 = 1.
   * `index` lists (a, one, two) of each s, `factor` (up, down).
   */
  featureTable(
    rows: number,
    index: Int32Array,
    factor: Float64Array,
    x: Real,
    table: Float64Array,
  ): void;
  /**
   * row[j] = scale low[j] + exactly[j] e[j] for j < n; out = (sum_j weight[j] row[j], the same times t[j]).
   */
  joinedRow(n: number, operands: JoinedRow, out: Float64Array): void;
  /**
   * With p = inverse e, off = p - otherInverse row and ds = off (t - mean) + p shift: out = sums over
   * j < n of weight[j] u[j] ds^2 and of weight[j] v[j] off^2. forScore u ds^2 and forValue v off^2 are
   * added to the columns.
   */
  rowErrors(n: number, operands: RowErrors, out: Float64Array): void;
}

/** A row of P as it is, and as features and exact columns make it; all operands are scratch. */
export interface JoinedRow {
  readonly e: Real;
  readonly t: Real;
  readonly low: Real;
  readonly scale: number;
  readonly exactly: Float64Array;
  readonly weight: Float64Array;
  readonly row: Float64Array;
}

export interface RowErrors {
  readonly e: Real;
  readonly t: Real;
  readonly row: Float64Array;
  readonly inverse: number;
  readonly otherInverse: number;
  readonly mean: number;
  readonly shift: number;
  readonly weight: Float64Array;
  readonly u: Float64Array;
  readonly v: Float64Array;
  readonly forScore: number;
  readonly forValue: number;
  readonly scoreColumns: Float64Array;
  readonly valueColumns: Float64Array;
}
