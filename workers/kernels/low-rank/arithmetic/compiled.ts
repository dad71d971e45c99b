/**
 * The block operations of arithmetic.ts in float32, on the compiled inner loops (wasm/assembly).
 *
 * Scratch lies in the memory of the instance. It must not grow while views of it are in use, so the
 * whole budget is reserved once; the operating system gives pages only when they are touched.
 */
import { packedFloats, type Wasm } from '../../inner/instance.js';
import type {
  Arithmetic,
  Attention,
  JoinedRow,
  Packed,
  Panels,
  Real,
  RowErrors,
} from './arithmetic.js';
import { allocatePanels, CompiledAttention, fillPanels } from './compiled-attention.js';

/** Bytes of scratch that a task may use. */
export const SCRATCH_BYTES = 224 * 2 ** 20;

export class CompiledArithmetic implements Arithmetic {
  readonly unit = 2 ** -24;
  readonly #wasm: Wasm;
  readonly #end: number;

  constructor(wasm: Wasm) {
    this.#wasm = wasm;
    const start = wasm.mark();
    wasm.alloc(SCRATCH_BYTES);
    this.#end = wasm.mark();
    wasm.release(start);
  }

  #allocate(bytes: number): number {
    const address = this.#wasm.alloc(bytes);
    if (this.#wasm.mark() > this.#end) {
      throw new RangeError(`a low-rank task needs more than ${SCRATCH_BYTES} bytes of scratch`);
    }
    return address;
  }

  array(n: number): Float32Array {
    return this.#wasm.f32(this.#allocate(4 * n), n).fill(0);
  }

  sums(n: number): Float64Array {
    return this.#wasm.f64(this.#allocate(8 * n), n).fill(0);
  }

  indices(list: Int32Array): Int32Array {
    const copy = this.#wasm.i32(this.#allocate(4 * list.length), list.length);
    copy.set(list);
    return copy;
  }

  mark(): number {
    return this.#wasm.mark();
  }

  release(mark: number): void {
    this.#wasm.release(mark);
  }

  pack(inner: number, columns: number, b: Real): Packed {
    const operand = { inner, columns, data: this.array(packedFloats(inner, columns)) };
    this.repack(operand, b);
    return operand;
  }

  repack({ inner, columns, data }: Packed, b: Real): void {
    if (b.buffer === data.buffer) {
      this.#wasm.fn.pack(inner, columns, b.byteOffset, columns, data.byteOffset);
      return;
    }
    const mark = this.mark();
    const copy = this.array(inner * columns);
    copy.set(b.subarray(0, inner * columns));
    this.#wasm.fn.pack(inner, columns, copy.byteOffset, columns, data.byteOffset);
    this.release(mark);
  }

  product(rows: number, a: Real, b: Packed, c: Real, accumulate = false): void {
    const { inner, columns, data } = b;
    this.#wasm.fn.gemm(
      rows,
      columns,
      inner,
      a.byteOffset,
      inner,
      data.byteOffset,
      c.byteOffset,
      columns,
      accumulate,
    );
  }

  transposedProduct(rows: number, a: Real, b: Packed, c: Real, accumulate = false): void {
    const { inner, columns, data } = b;
    this.#wasm.fn.gemm_tn(
      rows,
      columns,
      inner,
      a.byteOffset,
      rows,
      data.byteOffset,
      c.byteOffset,
      columns,
      accumulate,
    );
  }

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

  largestNorm(rows: number, n: number, x: Real): number {
    return this.#wasm.fn.largest_norm(rows, n, x.byteOffset);
  }

  panels(rows: number, width: number): Panels {
    return allocatePanels(this, rows, width);
  }

  fillPanels(panels: Panels, rows: number, x: Real, scale: number): void {
    panels.rows = rows;
    fillPanels(this.#wasm, panels, rows, x, scale);
  }

  attention(keys: number, d: number): Attention {
    return new CompiledAttention(this.#wasm, this, keys, d);
  }

  transpose(rows: number, columns: number, a: Real, b: Real): void {
    this.#wasm.fn.transpose(rows, columns, a.byteOffset, b.byteOffset);
  }

  softmax(rows: number, columns: number, s: Real, max: Real, total: Real, factor: Real): void {
    this.#wasm.fn.running_softmax(
      rows,
      columns,
      s.byteOffset,
      max.byteOffset,
      total.byteOffset,
      factor.byteOffset,
    );
  }

  scoreGradient(rows: number, columns: number, p: Real, t: Real, scale: Real, shift: Real): void {
    this.#wasm.fn.score_gradient(
      rows,
      columns,
      p.byteOffset,
      t.byteOffset,
      scale.byteOffset,
      shift.byteOffset,
    );
  }

  outer(
    rows: number,
    n: number,
    p: number,
    a: Real,
    b: Real,
    c: Real,
    stride: number,
    offset: number,
  ): void {
    const to = c.byteOffset + 4 * offset;
    this.#wasm.fn.outer(rows, n, p, a.byteOffset, b.byteOffset, to, stride);
  }

  contract(
    rows: number,
    n: number,
    p: number,
    a: Real,
    t: Real,
    stride: number,
    offset: number,
    c: Real,
  ): void {
    const from = t.byteOffset + 4 * offset;
    this.#wasm.fn.contract(rows, n, p, a.byteOffset, from, stride, c.byteOffset);
  }

  groupSums(
    rows: number,
    n: number,
    p: number,
    groups: number,
    phi: Real,
    ldphi: number,
    t: Real,
    out: Real,
  ): void {
    const { fn } = this.#wasm;
    fn.group_sums(rows, n, p, groups, phi.byteOffset, ldphi, t.byteOffset, out.byteOffset);
  }

  takeCentres(rows: number, groups: number, p: number, x: Real, c: Real): void {
    this.#wasm.fn.take_centres(rows, groups, p, x.byteOffset, c.byteOffset);
  }

  fold(n: number, block: Real, sums: Float64Array): void {
    const whole = n & ~3;
    this.#wasm.fn.fold(whole, block.byteOffset, sums.byteOffset);
    for (let i = whole; i < n; i++) {
      sums[i] += block[i];
      block[i] = 0;
    }
  }

  featureProducts(
    rows: number,
    base: Int32Array,
    slot: Int32Array,
    table: Float64Array,
    phi: Float64Array,
  ): void {
    this.#wasm.fn.feature_products(
      base.length,
      rows,
      base.byteOffset,
      slot.byteOffset,
      table.byteOffset,
      phi.byteOffset,
    );
  }

  weighFeatures(
    features: number,
    rows: number,
    phi: Float64Array,
    weight: Float64Array,
    out: Real,
  ): void {
    this.#wasm.fn.weigh_features(features, rows, phi.byteOffset, weight.byteOffset, out.byteOffset);
  }

  scaleColumns(features: number, rows: number, x: Real, weight: Real, out: Real): void {
    const { fn } = this.#wasm;
    fn.scale_columns(features, rows, x.byteOffset, weight.byteOffset, out.byteOffset);
  }

  columnDots(features: number, rows: number, a: Real, b: Real, out: Real): void {
    this.#wasm.fn.column_dots(features, rows, a.byteOffset, b.byteOffset, out.byteOffset);
  }

  rotate(rows: number, d: number, cos: Real, sin: Real, x: Real, back: boolean): void {
    this.#wasm.fn.rotate(rows, d, cos.byteOffset, sin.byteOffset, x.byteOffset, back);
  }

  forms(
    rows: number,
    n: number,
    x: Real,
    linear: Float64Array,
    quadratic: Float64Array,
    out: Float64Array,
  ): void {
    const { fn } = this.#wasm;
    fn.forms(rows, n, x.byteOffset, linear.byteOffset, quadratic.byteOffset, out.byteOffset);
  }

  dots(rows: number, n: number, x: Float64Array, y: Float64Array, out: Float64Array): void {
    this.#wasm.fn.dots64(rows, n, x.byteOffset, y.byteOffset, out.byteOffset);
  }

  rowDots(rows: number, n: number, a: Real, b: Real, out: Real): void {
    this.#wasm.fn.row_dots(rows, n, a.byteOffset, b.byteOffset, out.byteOffset);
  }

  scaleRows(rows: number, n: number, x: Real, weight: Real): void {
    this.#wasm.fn.scale_rows(rows, n, x.byteOffset, weight.byteOffset);
  }

  addRow(rows: number, n: number, row: Real, y: Real): void {
    this.#wasm.fn.add_row(rows, n, row.byteOffset, y.byteOffset);
  }

  combine(n: number, alpha: number, x: Real, beta: number, y: Real): void {
    this.#wasm.fn.combine(n, alpha, x.byteOffset, beta, y.byteOffset);
  }

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
    this.#wasm.fn.copy_columns(rows, columns, a, ldx, b, ldy);
  }

  squareSums(features: number, rows: number, phi: Float64Array, out: Float64Array): void {
    this.#wasm.fn.square_sums(features, rows, phi.byteOffset, out.byteOffset);
  }

  largest(n: number, x: Real): number {
    return this.#wasm.fn.largest(n, x.byteOffset);
  }

  featureTable(
    rows: number,
    index: Int32Array,
    factor: Float64Array,
    x: Real,
    table: Float64Array,
  ): void {
    this.#wasm.fn.feature_table(
      factor.length / 2,
      rows,
      index.byteOffset,
      factor.byteOffset,
      x.byteOffset,
      table.byteOffset,
    );
  }

  joinedRow(n: number, operands: JoinedRow, out: Float64Array): void {
    const { e, t, low, scale, exactly, weight, row } = operands;
    this.#wasm.fn.joined_row(
      n,
      scale,
      low.byteOffset,
      exactly.byteOffset,
      e.byteOffset,
      weight.byteOffset,
      t.byteOffset,
      row.byteOffset,
      out.byteOffset,
    );
  }

  rowErrors(n: number, operands: RowErrors, out: Float64Array): void {
    const { e, t, row, inverse, otherInverse, mean, shift, weight, u, v } = operands;
    const { forScore, forValue, scoreColumns, valueColumns } = operands;
    this.#wasm.fn.row_errors(
      n,
      inverse,
      otherInverse,
      mean,
      shift,
      forScore,
      forValue,
      e.byteOffset,
      t.byteOffset,
      row.byteOffset,
      weight.byteOffset,
      u.byteOffset,
      v.byteOffset,
      scoreColumns.byteOffset,
      valueColumns.byteOffset,
      out.byteOffset,
    );
  }
}
