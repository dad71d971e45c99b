/** Matrices as views of shared memory, and the product that the float64 kernel is made of. */
import type { Checkpoint } from '../../job.js';
import type { Range } from '../../mask.js';

export interface Matrix {
  readonly data: Float32Array | Float64Array;
  /** Index of the first entry. */
  readonly at: number;
  readonly rows: number;
  readonly columns: number;
  /** Steps to the next row and to the next column. */
  readonly down: number;
  readonly right: number;
}

/** @param down step to the next row; more than `columns`: a band of a wider matrix. */
export function matrix(
  data: Matrix['data'],
  rows: number,
  columns: number,
  at = 0,
  down = columns,
): Matrix {
  return { data, at, rows, columns, down, right: 1 };
}

export function transposed({ data, at, rows, columns, down, right }: Matrix): Matrix {
  return { data, at, rows: columns, columns: rows, down: right, right: down };
}

export function part(M: Matrix, rows: Range, columns: Range): Matrix {
  return {
    ...M,
    at: M.at + rows.first * M.down + columns.first * M.right,
    rows: rows.last - rows.first,
    columns: columns.last - columns.first,
  };
}

export function rowsOf(M: Matrix, rows: Range): Matrix {
  return part(M, rows, { first: 0, last: M.columns });
}

/** Rows of the right factor that are read together, one after the other for each row of the left one. */
const INNER = 256;

/** target += factor left right; sums in float64, always in the same order. @param checkpoint asked row by row. */
export function addProduct(
  target: Matrix,
  left: Matrix,
  right: Matrix,
  factor: number,
  checkpoint: Checkpoint,
): void {
  const { rows, columns } = target;
  const packed = new Float64Array(Math.min(INNER, left.columns) * columns);
  const sums = new Float64Array(columns);
  for (let from = 0; from < left.columns; from += INNER) {
    const inner = Math.min(INNER, left.columns - from);
    for (let k = 0; k < inner; k++) {
      const at = right.at + (from + k) * right.down;
      for (let j = 0; j < columns; j++) packed[k * columns + j] = right.data[at + j * right.right]!;
    }
    for (let i = 0; i < rows; i++) {
      checkpoint();
      sums.fill(0);
      const row = left.at + i * left.down + from * left.right;
      for (let k = 0; k < inner; k++) {
        const a = left.data[row + k * left.right]!;
        for (let j = 0; j < columns; j++) sums[j]! += a * packed[k * columns + j]!;
      }
      const at = target.at + i * target.down;
      for (let j = 0; j < columns; j++) target.data[at + j * target.right]! += factor * sums[j]!;
    }
  }
}

/** target += term */
export function add(target: Matrix, term: Matrix): void {
  for (let i = 0; i < target.rows; i++) {
    const [to, from] = [target.at + i * target.down, term.at + i * term.down];
    for (let j = 0; j < target.columns; j++) {
      target.data[to + j * target.right]! += term.data[from + j * term.right]!;
    }
  }
}

/** A matrix whose rows follow each other. */
export function clear({ data, at, rows, columns }: Matrix): void {
  data.fill(0, at, at + rows * columns);
}
