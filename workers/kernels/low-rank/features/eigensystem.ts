/**
 * Eigenvalues and eigenvectors of a symmetric matrix: Householder's tridiagonal form, then QL sweeps with implicit
 * shifts (tred2 and tql2 of EISPACK). The library of decompose.ts has the same, but a decomposition of it cannot be
 * stopped, and of 256 columns takes a fifth of a second.
 */
import { type Checkpoint, NumericError } from '../../../job.js';
import { requireFinite } from './decompose.js';

interface Eigensystem {
  readonly values: Float64Array;
  /** (n, n), row-major: column c belongs to value c; orthogonal. */
  readonly vectors: Float64Array;
}

/** A = Q T Q': diagonal (n,) and subdiagonal (n,), whose last entry is 0, of T, and reflectors whose product is Q. */
interface Tridiagonal {
  readonly diagonal: Float64Array;
  readonly subdiagonal: Float64Array;
  /** Reflector k (I - scale v v') is row k (n, n), from place k + 1 on. */
  readonly reflectors: Float64Array;
  readonly scales: Float64Array;
}

const WHAT = 'The product of queries and keys';

/**
 * @param matrix symmetric (n, n); only its lower half is read.
 * @param checkpoint passed once for each column and each sweep.
 * @throws {NumericError} when its numbers are too large.
 */
export function eigensystem(matrix: Float64Array, n: number, checkpoint: Checkpoint): Eigensystem {
  requireFinite(WHAT, matrix);
  const form = tridiagonal(matrix, n, checkpoint);
  const rows = rowsOfProduct(form, n, checkpoint);
  const { diagonal } = form;
  diagonalise(form, rows, n, checkpoint);
  requireFinite(WHAT, diagonal, rows);
  const vectors = new Float64Array(n * n);
  for (let c = 0; c < n; c++) for (let a = 0; a < n; a++) vectors[a * n + c] = rows[c * n + a]!;
  return { values: diagonal, vectors };
}

/** The eigenvalues alone: vectors take most of the time. */
export function eigenvalues(matrix: Float64Array, n: number, checkpoint: Checkpoint): Float64Array {
  requireFinite(WHAT, matrix);
  const form = tridiagonal(matrix, n, checkpoint);
  diagonalise(form, null, n, checkpoint);
  requireFinite(WHAT, form.diagonal);
  return form.diagonal;
}

function tridiagonal(matrix: Float64Array, n: number, checkpoint: Checkpoint): Tridiagonal {
  const a = matrix.slice();
  const diagonal = new Float64Array(n);
  const subdiagonal = new Float64Array(n);
  const reflectors = new Float64Array(n * n);
  const scales = new Float64Array(n);
  const product = new Float64Array(n);
  for (let k = 0; k < n - 1; k++) {
    checkpoint();
    const v = reflectors.subarray(k * n, (k + 1) * n);
    for (let i = k + 1; i < n; i++) v[i] = a[i * n + k]!;
    diagonal[k] = a[k * n + k]!;
    const [norm, scale] = reflector(v, k + 1);
    subdiagonal[k] = norm;
    scales[k] = scale;
    if (scale !== 0) reflectBoth(a, n, k + 1, v, scale, product);
  }
  if (n > 0) diagonal[n - 1] = a[n * n - 1]!;
  return { diagonal, subdiagonal, reflectors, scales };
}

/**
 * Makes of v, from place `from` on, the vector whose reflection I - scale v v' takes what was there to (norm, 0, ...).
 *
 * @returns norm, with its sign, and scale.
 */
function reflector(v: Float64Array, from: number): [norm: number, scale: number] {
  let largest = 0;
  for (let i = from + 1; i < v.length; i++) largest = Math.max(largest, Math.abs(v[i]!));
  const first = v[from]!;
  if (largest === 0) return [first, 0];
  // Scaled, so that no square overflows or vanishes.
  const size = Math.max(largest, Math.abs(first));
  let squares = 0;
  for (let i = from; i < v.length; i++) {
    v[i]! /= size;
    squares += v[i]! ** 2;
  }
  const length = Math.sqrt(squares);
  const scale = 1 / (squares + Math.abs(v[from]!) * length);
  // The sign that adds up, so that no digits cancel.
  const norm = first > 0 ? -length : length;
  v[from]! -= norm;
  return [norm * size, scale];
}

/** A = H A H for H = I - scale v v', of the lower half of the rows and columns from `from` on. */
function reflectBoth(
  a: Float64Array,
  n: number,
  from: number,
  v: Float64Array,
  scale: number,
  product: Float64Array,
): void {
  product.fill(0, from);
  for (let i = from; i < n; i++) {
    const row = i * n;
    const ofV = v[i]!;
    let sum = a[row + i]! * ofV;
    for (let j = from; j < i; j++) {
      const x = a[row + j]!;
      sum += x * v[j]!;
      product[j]! += x * ofV;
    }
    product[i]! += sum;
  }
  let along = 0;
  for (let i = from; i < n; i++) {
    product[i]! *= scale;
    along += product[i]! * v[i]!;
  }
  const half = (scale * along) / 2;
  for (let i = from; i < n; i++) product[i]! -= half * v[i]!;
  for (let i = from; i < n; i++) {
    const [row, ofV, ofW] = [i * n, v[i]!, product[i]!];
    for (let j = from; j <= i; j++) a[row + j]! -= ofV * product[j]! + ofW * v[j]!;
  }
}

/** Rows (n, n) of Q' for Q = H_0 H_1 ...: from the last reflector to the first, each of which leaves the rows before it alone. */
function rowsOfProduct(
  { reflectors, scales }: Tridiagonal,
  n: number,
  checkpoint: Checkpoint,
): Float64Array {
  const rows = new Float64Array(n * n);
  for (let i = 0; i < n; i++) rows[i * n + i] = 1;
  for (let k = n - 2; k >= 0; k--) {
    checkpoint();
    const scale = scales[k]!;
    if (scale === 0) continue;
    const v = reflectors.subarray(k * n, (k + 1) * n);
    for (let c = k + 1; c < n; c++) {
      const row = c * n;
      let sum = 0;
      for (let j = k + 1; j < n; j++) sum += rows[row + j]! * v[j]!;
      sum *= scale;
      for (let j = k + 1; j < n; j++) rows[row + j]! -= sum * v[j]!;
    }
  }
  return rows;
}

/** Far more than any matrix of finite numbers takes. */
const MOST_SWEEPS = 60;

/** The diagonal becomes the eigenvalues, the rows, where they are wanted, the eigenvectors. @throws {NumericError} */
function diagonalise(
  { diagonal: d, subdiagonal: e }: Tridiagonal,
  rows: Float64Array | null,
  n: number,
  checkpoint: Checkpoint,
): void {
  let shift = 0;
  let largest = 0;
  for (let l = 0; l < n; l++) {
    largest = Math.max(largest, Math.abs(d[l]!) + Math.abs(e[l]!));
    const negligible = Number.EPSILON * largest;
    let m = l;
    while (m < n - 1 && Math.abs(e[m]!) > negligible) m++;
    for (let sweeps = 0; m > l && Math.abs(e[l]!) > negligible; sweeps++) {
      if (sweeps === MOST_SWEEPS) throw new NumericError('Eigenvalues could not be found.');
      checkpoint();
      shift += shiftDiagonal(d, e, l, n);
      sweep(d, e, rows, l, m, n);
    }
    d[l]! += shift;
    e[l] = 0;
  }
}

/** Takes the eigenvalue of the first two rows from the diagonal. @returns how much that is. */
function shiftDiagonal(d: Float64Array, e: Float64Array, l: number, n: number): number {
  const first = d[l]!;
  const p = (d[l + 1]! - first) / (2 * e[l]!);
  const r = p < 0 ? -Math.hypot(p, 1) : Math.hypot(p, 1);
  d[l] = e[l]! / (p + r);
  d[l + 1] = e[l]! * (p + r);
  const shift = first - d[l]!;
  for (let i = l + 2; i < n; i++) d[i]! -= shift;
  return shift;
}

/** One implicit QL transformation of the rows l to m. Numbers in lists would be objects, millions of them. */
function sweep(
  d: Float64Array,
  e: Float64Array,
  rows: Float64Array | null,
  l: number,
  m: number,
  n: number,
): void {
  const [second, below] = [d[l + 1]!, e[l + 1]!];
  let p = d[m]!;
  let c = 1;
  let c2 = 1;
  let c3 = 1;
  let s = 0;
  let s2 = 0;
  for (let i = m - 1; i >= l; i--) {
    c3 = c2;
    c2 = c;
    s2 = s;
    const g = c * e[i]!;
    const h = c * p;
    const r = Math.hypot(p, e[i]!);
    e[i + 1] = s * r;
    s = e[i]! / r;
    c = p / r;
    p = c * d[i]! - s * g;
    d[i + 1] = h + s * (c * g + s * d[i]!);
    if (rows) rotate(rows, i * n, n, c, s);
  }
  // In this order no product of small numbers vanishes.
  p = -s * s2 * c3 * below * (e[l]! / second);
  e[l] = s * p;
  d[l] = c * p;
}

/** Row i and the next one. */
function rotate(rows: Float64Array, from: number, n: number, c: number, s: number): void {
  const next = from + n;
  for (let k = 0; k < n; k++) {
    const x = rows[from + k]!;
    const y = rows[next + k]!;
    rows[next + k] = s * x + c * y;
    rows[from + k] = c * x - s * y;
  }
}
