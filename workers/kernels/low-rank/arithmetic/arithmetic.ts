/**
 * The few block operations that the low-rank kernel is made of, each once: its parameters, and the export of
 * the inner loops that it is. All matrices are row-major and float32 but where it says float64.
 *
 * Before each the checkpoint is passed, and large ones are cut, so that whatever is made of them stops within
 * milliseconds when nobody wants it any more.
 */
import type { TensorData } from '../../../tensor/tensor.js';
import { packedFloats } from '../../inner/operations/products.js';
import { binder } from './bind.js';
import { Scratch } from './scratch.js';

/** Unit roundoff of a block operation. */
export const ROUNDOFF = 2 ** -24;

/** Numbers of a block: scratch. */
export type Real = Float32Array;

/** A right operand made ready for many products. */
export interface Packed {
  readonly inner: number;
  readonly columns: number;
  readonly data: Real;
}

/** Multiplications and additions between two checkpoints, at most: about a millisecond. */
const CUT = 2 ** 24;
/** Rows of a cut: a multiple of these, of which the inner loops of all builds take a whole number at a time. */
const ROWS_AT_ONCE = 48;

/** Rows of a product that are computed between two checkpoints. */
const rowsOfCut = (columns: number, inner: number) =>
  ROWS_AT_ONCE * Math.max(1, Math.floor(CUT / (ROWS_AT_ONCE * columns * inner)));

export class Arithmetic extends Scratch {
  readonly #fn = this.wasm.fn;
  readonly #bind = binder(this.wasm.fn, this.checkpoint);
  readonly #pack = this.#bind('pack');

  /** b (columns, rows) = transpose of a (rows, columns). */
  readonly transpose = this.#bind('transpose');

  /** Norm of the longest row of x (rows, n). */
  readonly largestNorm = this.#bind('largest_norm');

  /** Largest |x[i]| of n elements. */
  readonly largest = this.#bind('largest');

  /**
   * One step of a running softmax over scores s (rows, columns): max grows to the row maximum,
   * factor = exp(old max - new max), s = exp(s - new max), total = factor total + row sum of s.
   */
  readonly softmax = this.#bind('running_softmax');

  /** p = p scale_i, t = p (t - shift_i): a block of P and of dS from exp(S) and G V'. */
  readonly scoreGradient = this.#bind('score_gradient');

  /** c[i, x p + y] = a[i, x] b[i, y] for a (rows, n), b (rows, p); rows of c are ldc apart. */
  readonly outer = this.#bind('outer');

  /** c[i, y] += sum_x a[i, x] t[i, x p + y] for a (rows, n), c (rows, p); rows of t are ldt apart. */
  readonly contract = this.#bind('contract');

  /**
   * out[i, k p + y] = sum of phi[f, i] t[i, f p + y] over the f of group k, for phi (n, ldphi), t (rows, n p) and
   * out (rows, groups p); the n features are dealt to the groups in their order.
   */
  readonly groupSums = this.#bind('group_sums');

  /** c[i, k, y] -= c[i, k, p] x[i, y] for c (rows, groups, p + 1) and x (rows, p). */
  readonly takeCentres = this.#bind('take_centres');

  /** phi[f] = phi[base[f]] table[slot[f]] for 0 < f < features, in float64: rows of `rows` numbers. */
  readonly featureProducts = this.#bind('feature_products');

  /**
   * out[k, i] = product over directions a of 1 + the sum of signs[k, s] table[s, i] over its slots s, which end at
   * ends[a], for signs (functions, slots) and table (slots, rows), in float64.
   */
  readonly signedProducts = this.#bind('signed_products');

  /** out[f, i] = phi[f, i] weight[i] for the first `features` rows of phi (.., rows). */
  readonly weighFeatures = this.#bind('weigh_features');

  /** out[f, i] = x[f, i] weight[i] for x, out (features, rows), rows a multiple of 4; out may be x. */
  readonly scaleColumns = this.#bind('scale_columns');

  /** out[i] = sum_f a[f, i] b[f, i] for a, b (features, rows), rows a multiple of 4. */
  readonly columnDots = this.#bind('column_dots');

  /** Rotary positions of x (rows, d) in place, or back; cos, sin (rows, width). See kernels/rotary.ts. */
  readonly rotate = this.#bind('rotate');

  /** out[i] = sum_a (linear[a] + quadratic[a] x[i, a]) x[i, a] for x (rows, n), in float64. */
  readonly forms = this.#bind('forms');

  readonly #dots = this.#bind('dots64');

  /** out[i] = a_i . b_i for a, b (rows, n). */
  readonly rowDots = this.#bind('row_dots');

  /** x[i, :] *= weight[i] for x (rows, n). */
  readonly scaleRows = this.#bind('scale_rows');

  /** y[i, :] += row for y (rows, n). */
  readonly addRow = this.#bind('add_row');

  /** y = alpha x + beta y, n elements. */
  readonly combine = this.#bind('combine');

  /** out[i] = sum_f phi[f, i]^2 for phi (features, rows), float64. */
  readonly squareSums = this.#bind('square_sums');

  /**
   * Row s + 1 of table (.., rows) = up_s x[a] row one_s - down_s row two_s for x (d, rows) and s < slots;
   * row 0 = 1. `index` lists (a, one, two) of each s, `factor` (up, down). Float64 but for x.
   */
  readonly featureTable = this.#bind('feature_table');

  /**
   * A row of P as features and exact columns make it, from e and t of the row as it is:
   * row[j] = scale low[j] + exactly[j] e[j] for j < n; out = (sum_j weight[j] row[j], the same times t[j]).
   */
  readonly joinedRow = this.#bind('joined_row');

  /**
   * With p = inverse e, off = p - otherInverse row and ds = off (t - mean) + p shift: out = sums over
   * j < n of weight[j] u[j] ds^2 and of weight[j] v[j] off^2. forScore u ds^2 and forValue v off^2 are
   * added to the columns.
   */
  readonly rowErrors = this.#bind('row_errors');

  /** b (inner, columns), copied: b may change afterwards, and may lie anywhere. */
  pack(inner: number, columns: number, b: TensorData): Packed {
    const operand = { inner, columns, data: this.array(packedFloats(inner, columns)) };
    this.repack(operand, b);
    return operand;
  }

  /** Packs b again, over an operand of the same size. */
  repack({ inner, columns, data }: Packed, b: TensorData): void {
    if (b instanceof Float32Array && b.buffer === data.buffer) {
      this.#pack(inner, columns, b, columns, data);
      return;
    }
    const mark = this.mark();
    const copy = this.array(inner * columns);
    copy.set(b.subarray(0, inner * columns));
    this.#pack(inner, columns, copy, columns, data);
    this.release(mark);
  }

  /** c (rows, columns) = a (rows, inner) b; adds to c if asked to. */
  product(rows: number, a: Real, b: Packed, c: Real, accumulate = false): void {
    const { inner, columns, data } = b;
    const [ofA, ofB, ofC] = [a.byteOffset, data.byteOffset, c.byteOffset];
    const step = rowsOfCut(columns, inner);
    for (let from = 0; from < rows; from += step) {
      const n = Math.min(step, rows - from);
      const [atA, atC] = [ofA + 4 * from * inner, ofC + 4 * from * columns];
      this.checkpoint();
      this.#fn.gemm(n, columns, inner, atA, inner, ofB, atC, columns, accumulate);
    }
  }

  /** c (rows, columns) = a' b for a (inner, rows). */
  transposedProduct(rows: number, a: Real, b: Packed, c: Real, accumulate = false): void {
    const { inner, columns, data } = b;
    const [ofA, ofB, ofC] = [a.byteOffset, data.byteOffset, c.byteOffset];
    const step = rowsOfCut(columns, inner);
    for (let from = 0; from < rows; from += step) {
      const n = Math.min(step, rows - from);
      const [atA, atC] = [ofA + 4 * from, ofC + 4 * from * columns];
      this.checkpoint();
      this.#fn.gemm_tn(n, columns, inner, atA, rows, ofB, atC, columns, accumulate);
    }
  }

  /** out (m, rows) = y x^T for x (rows, n), y (m, n), all float64. */
  dots(
    rows: number,
    n: number,
    m: number,
    x: Float64Array,
    y: Float64Array,
    out: Float64Array,
  ): void {
    const step = rowsOfCut(rows, n);
    for (let from = 0; from < m; from += step) {
      const part = Math.min(step, m - from);
      this.#dots(rows, n, part, x, y.subarray(from * n), out.subarray(from * rows));
    }
  }

  /** c (rows, columns) = a (rows, inner) b (inner, columns). */
  gemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate = false,
  ): void {
    if (rows === 0 || columns === 0) return;
    const mark = this.mark();
    this.product(rows, a, this.pack(inner, columns, b), c, accumulate);
    this.release(mark);
  }

  /** c (rows, columns) = a' b for a (inner, rows), b (inner, columns). */
  transposedGemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate = false,
  ): void {
    if (rows === 0 || columns === 0) return;
    const mark = this.mark();
    this.transposedProduct(rows, a, this.pack(inner, columns, b), c, accumulate);
    this.release(mark);
  }

  /** sums += block, then block = 0: float32 blocks, float64 sums of blocks. */
  fold(n: number, block: Real, sums: Float64Array): void {
    const whole = n & ~3;
    this.#fn.fold(whole, block.byteOffset, sums.byteOffset);
    for (let i = whole; i < n; i++) {
      sums[i] += block[i];
      block[i] = 0;
    }
  }

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
  ): void {
    const [a, b] = [x.byteOffset + 4 * from, y.byteOffset + 4 * to];
    this.#fn.copy_columns(rows, columns, a, ldx, b, ldy);
  }
}
