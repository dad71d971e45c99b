/**
 * One tile of one attention head in float64, rows by keys, forward and backward, with the formulas as they stand
 * in the textbook. This is the oracle for every faster kernel: it is written for reading.
 *
 *     S = beta Q K^T            P = softmax over each row of S            O = P V
 *     G = O - Y (objective 1/2 ||O - Y||_F^2) or the given dLoss/dO
 *     dP = G V^T                dS_ij = P_ij (dP_ij - G_i . O_i)          dsink = -sum_i Psink_i G_i . O_i
 *     dQ = beta dS K            dK = beta dS^T Q                          dV = P^T G
 *
 * With a soft cap S = c tanh(beta Q K^T / c), and dS takes its slope 1 - tanh^2; a sink is one more logit in
 * each row's sum, and Psink its share. A row that sees no key has P = 0.
 *
 * The tiles of a row come one after the other: forward they keep the largest logit so far and the sum of
 * e^(S - largest), by which O is divided in the last of them; backward finds P by both.
 */
import type { Checkpoint } from '../../job.js';
import type { Range } from '../../mask.js';
import { addProduct, clear, type Matrix, matrix, rowsOf, transposed } from './matrix.js';

export interface Head {
  /** Q (Lq, d), K (Lk, d), V (Lk, dv). */
  readonly Q: Matrix;
  readonly K: Matrix;
  readonly V: Matrix;
  /** (Lq, dv) */
  readonly O: Matrix;
  /** Of each row: the largest logit, and the sum of e^(S - largest). */
  readonly largest: Float64Array;
  readonly sum: Float64Array;
  /** Keys that each row sees: first, last of row 0, first, last of row 1, ... */
  readonly seen: Int32Array;
  /** beta */
  readonly scaling: number;
  /** c; absent: no cap. */
  readonly softcap: number | undefined;
  /** Absent: none. */
  readonly sink: number | undefined;
}

/** What the backward pass adds to. */
export interface HeadGradient {
  /** Y or G, (Lq, dv). */
  readonly objective: { readonly kind: 'target' | 'grad_output'; readonly matrix: Matrix };
  readonly dQ: Matrix;
  readonly dK: Matrix;
  readonly dV: Matrix;
  /** One number: 1/2 ||O - Y||_F^2. */
  readonly loss: Float64Array;
  /** One number; absent: there is no sink. */
  readonly dsink: Float64Array | undefined;
}

/** Rows by keys; the first and the last of the tiles of its rows do more. */
export interface Tile {
  readonly rows: Range;
  readonly keys: Range;
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

/** S, and the slope of the cap, of all rows and keys of a tile. */
function logits(head: Head, { rows, keys }: Tile, checkpoint: Checkpoint) {
  const { Q, K, scaling: beta, softcap: c } = head;
  const [n, m] = [rows.last - rows.first, keys.last - keys.first];
  const S = new Float64Array(n * m);
  addProduct(matrix(S, n, m), rowsOf(Q, rows), transposed(rowsOf(K, keys)), beta, checkpoint);
  if (c === undefined) return { S, slope: null };
  const tanh = S.map((s) => Math.tanh(s / c));
  return { S: tanh.map((t) => c * t), slope: tanh.map((t) => 1 - t * t) };
}

/** Keys of a tile that a row sees. */
function seenBy({ seen }: Head, row: number, { first, last }: Range): Range {
  const from = Math.max(first, seen[2 * row]!);
  return { first: from, last: Math.max(from, Math.min(last, seen[2 * row + 1]!)) };
}

/** O += P V, and what the sum of the row has come to. */
export function forward(head: Head, tile: Tile, checkpoint: Checkpoint): void {
  const { O, V, largest, sum, sink } = head;
  const { rows, keys, isFirst, isLast } = tile;
  const m = keys.last - keys.first;
  const { S } = logits(head, tile, checkpoint);
  const P = new Float64Array(S.length);
  if (isFirst) {
    clear(rowsOf(O, rows));
    largest.fill(sink ?? Number.NEGATIVE_INFINITY, rows.first, rows.last);
    sum.fill(sink === undefined ? 0 : 1, rows.first, rows.last);
  }
  const scale = (row: number, factor: number) => {
    for (let c = 0; c < O.columns; c++) O.data[O.at + row * O.down + c]! *= factor;
  };
  for (let row = rows.first; row < rows.last; row++) {
    const { first, last } = seenBy(head, row, keys);
    const at = (row - rows.first) * m - keys.first;
    let top = largest[row]!;
    for (let j = first; j < last; j++) top = Math.max(top, S[at + j]!);
    if (top !== largest[row]) {
      const kept = Math.exp(largest[row]! - top);
      sum[row]! *= kept;
      scale(row, kept);
      largest[row] = top;
    }
    for (let j = first; j < last; j++) sum[row]! += P[at + j] = Math.exp(S[at + j]! - top);
  }
  addProduct(rowsOf(O, rows), matrix(P, rows.last - rows.first, m), rowsOf(V, keys), 1, checkpoint);
  for (let row = rows.first; isLast && row < rows.last; row++) {
    if (sum[row] !== 0) scale(row, 1 / sum[row]!);
  }
}

/** G of the rows, and G_i . O_i. */
function upstream({ O }: Head, { objective }: HeadGradient, { first, last }: Range) {
  const Y = objective.matrix;
  const n = last - first;
  const G = new Float64Array(n * O.columns);
  const means = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < O.columns; c++) {
      const o = O.data[O.at + (first + i) * O.down + c]!;
      const y = Y.data[Y.at + (first + i) * Y.down + c]!;
      const g = objective.kind === 'target' ? o - y : y;
      G[i * O.columns + c] = g;
      means[i]! += g * o;
    }
  }
  return { G: matrix(G, n, O.columns), means };
}

/** dQ, dK and dV of a tile; loss and dsink with the first of its rows. All tiles of the rows went forward. */
export function backward(
  head: Head,
  gradient: HeadGradient,
  tile: Tile,
  checkpoint: Checkpoint,
): void {
  const { Q, K, V, largest, sum, sink, scaling: beta } = head;
  const { objective, dQ, dK, dV, loss, dsink } = gradient;
  const { rows, keys, isFirst } = tile;
  const [n, m] = [rows.last - rows.first, keys.last - keys.first];
  const { G, means } = upstream(head, gradient, rows);
  const { S, slope } = logits(head, tile, checkpoint);
  const P = new Float64Array(n * m);
  const dS = new Float64Array(n * m);
  addProduct(matrix(dS, n, m), G, transposed(rowsOf(V, keys)), 1, checkpoint);
  for (let i = 0; i < n; i++) {
    const row = rows.first + i;
    const { first, last } = seenBy(head, row, keys);
    for (let j = 0; j < m; j++) {
      const k = i * m + j;
      const isSeen = keys.first + j >= first && keys.first + j < last;
      P[k] = isSeen ? Math.exp(S[k]! - largest[row]!) / sum[row]! : 0;
      dS[k] = P[k]! * (dS[k]! - means[i]!) * (slope ? slope[k]! : 1);
    }
    if (isFirst && dsink && sum[row]! > 0) {
      dsink[0]! -= (Math.exp(sink! - largest[row]!) / sum[row]!) * means[i]!;
    }
  }
  addProduct(rowsOf(dQ, rows), matrix(dS, n, m), rowsOf(K, keys), beta, checkpoint);
  addProduct(rowsOf(dK, keys), transposed(matrix(dS, n, m)), rowsOf(Q, rows), beta, checkpoint);
  addProduct(rowsOf(dV, keys), transposed(matrix(P, n, m)), G, 1, checkpoint);
  if (!isFirst || objective.kind !== 'target') return;
  for (const g of G.data) loss[0]! += 0.5 * g * g;
}
