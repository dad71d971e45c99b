/**
 * The few block operations that the low-rank kernel is made of.
 *
 * Two implementations exist: float64 in plain TypeScript, for reading and for checking, and float32 in
 * WebAssembly SIMD. The kernel is written once, over this interface.
 */
export type Real = Float32Array | Float64Array;

export interface Arithmetic {
  /** Unit roundoff of a block operation: 2^-53 or 2^-24. */
  readonly unit: number;
  /** Zeroed scratch of n elements, valid until `release` of an earlier mark. */
  array(n: number): Real;
  /** Zeroed float64 scratch of n elements: sums of blocks are kept in it. */
  sums(n: number): Float64Array;
  mark(): number;
  release(mark: number): void;
  /** c (rows, columns) = a (rows, inner) b (inner, columns), all row-major; adds to c if asked to. */
  gemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate?: boolean,
  ): void;
  /** b (columns, rows) = transpose of a (rows, columns). */
  transpose(rows: number, columns: number, a: Real, b: Real): void;
  /** x = exp(x), in place, on the first n elements. */
  exp(n: number, x: Real): void;
  /** sums += block, then block = 0, on the first n elements: float32 blocks, float64 sums of blocks. */
  fold(n: number, block: Real, sums: Float64Array): void;
}

/** The float64 implementation, in the order in which the formulas are written. */
export class PlainArithmetic implements Arithmetic {
  readonly unit = 2 ** -53;

  array(n: number): Float64Array {
    return new Float64Array(n);
  }

  sums(n: number): Float64Array {
    return new Float64Array(n);
  }

  mark(): number {
    return 0;
  }

  release(): void {}

  gemm(
    rows: number,
    columns: number,
    inner: number,
    a: Real,
    b: Real,
    c: Real,
    accumulate = false,
  ): void {
    if (!accumulate) c.fill(0, 0, rows * columns);
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < inner; k++) {
        const aik = a[i * inner + k];
        if (aik === 0) continue;
        for (let j = 0, ci = i * columns, bk = k * columns; j < columns; j++, ci++, bk++) {
          c[ci] += aik * b[bk];
        }
      }
    }
  }

  transpose(rows: number, columns: number, a: Real, b: Real): void {
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
    }
  }

  exp(n: number, x: Real): void {
    for (let i = 0; i < n; i++) x[i] = Math.exp(x[i]);
  }

  fold(n: number, block: Real, sums: Float64Array): void {
    for (let i = 0; i < n; i++) sums[i] += block[i];
    block.fill(0, 0, n);
  }
}
