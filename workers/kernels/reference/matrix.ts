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

/** Terms of a sum that are added to the target at once. */
const INNER = 256;

/**
 * target += factor left right; sums in float64, always in the same order. Two rows by four columns at a time: each number
 * that is read is in several sums.
 *
 * @param checkpoint asked with every two rows.
 */
export function addProduct(
  target: Matrix,
  left: Matrix,
  right: Matrix,
  factor: number,
  checkpoint: Checkpoint,
): void {
  const { data, rows, columns, down, right: across } = target;
  const depth = Math.min(INNER, left.columns);
  // More than there are: the last may have no others beside it.
  const L = new Float64Array(depth * (rows + 1));
  const R = new Float64Array(depth * (columns + 3));
  for (let from = 0; from < left.columns; from += INNER) {
    const n = Math.min(INNER, left.columns - from);
    const terms = { first: from, last: from + n };
    copyRows(L, part(left, { first: 0, last: rows }, terms));
    copyRows(R, transposed(part(right, terms, { first: 0, last: columns })));
    for (let i = 0; i < rows; i += 2) {
      checkpoint();
      const l = i * n;
      for (let j = 0; j < columns; j += 4) {
        const r = j * n;
        let a = 0;
        let b = 0;
        let c = 0;
        let d = 0;
        let e = 0;
        let f = 0;
        let g = 0;
        let h = 0;
        for (let k = 0; k < n; k++) {
          const x = L[l + k]!;
          const y = L[l + n + k]!;
          const s = R[r + k]!;
          const t = R[r + n + k]!;
          const u = R[r + 2 * n + k]!;
          const v = R[r + 3 * n + k]!;
          a += x * s;
          b += x * t;
          c += x * u;
          d += x * v;
          e += y * s;
          f += y * t;
          g += y * u;
          h += y * v;
        }
        const count = columns - j;
        let at = target.at + i * down + j * across;
        data[at]! += factor * a;
        if (count > 1) data[at + across]! += factor * b;
        if (count > 2) data[at + 2 * across]! += factor * c;
        if (count > 3) data[at + 3 * across]! += factor * d;
        if (i + 1 === rows) continue;
        at += down;
        data[at]! += factor * e;
        if (count > 1) data[at + across]! += factor * f;
        if (count > 2) data[at + 2 * across]! += factor * g;
        if (count > 3) data[at + 3 * across]! += factor * h;
      }
    }
  }
}

function copyRows(to: Float64Array, { data, at, rows, columns, down, right }: Matrix): void {
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < columns; k++) to[i * columns + k] = data[at + i * down + k * right]!;
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
