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
 * each row's sum, with the value 0, and Psink its share. A row that sees no key has P = 0.
 *
 * One thing is not as in the textbook. Where key m has nearly all the weight of row i, dP_im - G_i . O_i is rounding
 * and nothing else. So values are taken relative to that of the row's heaviest key, which changes no dS:
 *
 *     D_i = O_i - v_m = sum over j of P_ij (v_j - v_m)        dS_ij = P_ij (G_i . (v_j - v_m) - G_i . D_i)
 *
 * D is summed over the other keys alone, and what is rounded of dS is relative to 1 - P_im.
 *
 * The tiles of a row come one after the other: forward they keep the largest logit so far, its key, and the sum of
 * e^(S - largest) over the others, which give D and O in the last of them; backward finds P by these.
 */
import type { Checkpoint } from '../../job.js';
import type { Range } from '../../mask.js';
import { capped } from '../softmax.js';
import { addProduct, clear, type Matrix, matrix, rowsOf, transposed } from './matrix.js';

export interface Head {
  /** Q (Lq, d), K (Lk, d), V (Lk, dv). */
  readonly Q: Matrix;
  readonly K: Matrix;
  readonly V: Matrix;
  /** (Lq, dv); D is O less the value of the heaviest key. */
  readonly O: Matrix;
  readonly D: Matrix;
  /** For each row: the largest logit, its key (NO_KEY: the sink, or none), and the sum of e^(S - largest) of the others. */
  readonly largest: Float64Array;
  readonly heaviest: Int32Array;
  readonly others: Float64Array;
  /** Keys that each row sees: first, last of row 0, first, last of row 1, ... */
  readonly seen: Int32Array;
  /** beta */
  readonly scaling: number;
  /** c; absent: no cap. */
  readonly softcap: number | undefined;
  /** Absent: none. */
  readonly sink: number | undefined;
}

const NO_KEY = -1;

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
  return { S, slope: c === undefined ? null : capped(S, c) };
}

/** Keys of a tile that a row sees. */
function seenBy({ seen }: Head, row: number, { first, last }: Range): Range {
  const from = Math.max(first, seen[2 * row]!);
  return { first: from, last: Math.max(from, Math.min(last, seen[2 * row + 1]!)) };
}

/** Entry c of the value of a row's heaviest key; that of a sink is 0. */
function heaviestValue({ V, heaviest }: Head, row: number, c: number): number {
  const key = heaviest[row]!;
  return key === NO_KEY ? 0 : V.data[V.at + key * V.down + c * V.right]!;
}

/** What the keys of a tile add to D, to the largest logits and to the sums; O in the last of a row's tiles. */
export function forward(head: Head, tile: Tile, checkpoint: Checkpoint): void {
  const { O, D, V, largest, heaviest, others, sink } = head;
  const { rows, keys, isFirst, isLast } = tile;
  const m = keys.last - keys.first;
  const { S } = logits(head, tile, checkpoint);
  const P = new Float64Array(S.length);
  if (isFirst) {
    clear(rowsOf(D, rows));
    largest.fill(sink ?? Number.NEGATIVE_INFINITY, rows.first, rows.last);
    heaviest.fill(NO_KEY, rows.first, rows.last);
    others.fill(0, rows.first, rows.last);
  }
  for (let row = rows.first; row < rows.last; row++) {
    const { first, last } = seenBy(head, row, keys);
    const at = (row - rows.first) * m - keys.first;
    let [top, key] = [largest[row]!, heaviest[row]!];
    for (let j = first; j < last; j++) if (S[at + j]! > top) [top, key] = [S[at + j]!, j];
    if (key !== heaviest[row]) {
      // The heaviest so far is one of the others now.
      const kept = Math.exp(largest[row]! - top);
      for (let c = 0; c < D.columns; c++) {
        const d = D.at + row * D.down + c;
        D.data[d] = kept * (D.data[d]! + heaviestValue(head, row, c));
      }
      others[row] = kept * (others[row]! + 1);
      largest[row] = top;
      heaviest[row] = key;
    }
    for (let j = first; j < last; j++) {
      if (j !== key) others[row]! += P[at + j] = Math.exp(S[at + j]! - top);
    }
  }
  addProduct(rowsOf(D, rows), matrix(P, rows.last - rows.first, m), rowsOf(V, keys), 1, checkpoint);
  for (let row = rows.first; isLast && row < rows.last; row++) {
    const rest = others[row]!;
    for (let c = 0; c < D.columns; c++) {
      const d = D.at + row * D.down + c;
      const value = heaviestValue(head, row, c);
      D.data[d] = (D.data[d]! - rest * value) / (1 + rest);
      O.data[O.at + row * O.down + c] = value + D.data[d]!;
    }
  }
}

/** G of the rows, and of each G . v_m and G . D. */
function upstream(head: Head, { objective }: HeadGradient, { first, last }: Range) {
  const { O, D } = head;
  const Y = objective.matrix;
  const n = last - first;
  const G = new Float64Array(n * O.columns);
  const ofHeaviest = new Float64Array(n);
  const ofOthers = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < O.columns; c++) {
      const y = Y.data[Y.at + (first + i) * Y.down + c]!;
      const o = O.data[O.at + (first + i) * O.down + c]!;
      const g = objective.kind === 'target' ? o - y : y;
      G[i * O.columns + c] = g;
      ofHeaviest[i]! += g * heaviestValue(head, first + i, c);
      ofOthers[i]! += g * D.data[D.at + (first + i) * D.down + c]!;
    }
  }
  return { G: matrix(G, n, O.columns), ofHeaviest, ofOthers };
}

/** dQ, dK and dV of a tile; loss and dsink with the first of its rows. All tiles of the rows went forward. */
export function backward(
  head: Head,
  gradient: HeadGradient,
  tile: Tile,
  checkpoint: Checkpoint,
): void {
  const { Q, K, V, largest, heaviest, others, sink, scaling: beta } = head;
  const { objective, dQ, dK, dV, loss, dsink } = gradient;
  const { rows, keys, isFirst } = tile;
  const [n, m] = [rows.last - rows.first, keys.last - keys.first];
  const { G, ofHeaviest, ofOthers } = upstream(head, gradient, rows);
  const { S, slope } = logits(head, tile, checkpoint);
  const P = new Float64Array(n * m);
  const dS = new Float64Array(n * m);
  addProduct(matrix(dS, n, m), G, transposed(rowsOf(V, keys)), 1, checkpoint);
  for (let i = 0; i < n; i++) {
    const row = rows.first + i;
    const { first, last } = seenBy(head, row, keys);
    const total = 1 + others[row]!;
    for (let j = 0; j < m; j++) {
      const k = i * m + j;
      const key = keys.first + j;
      const isSeen = key >= first && key < last;
      P[k] = isSeen ? Math.exp(S[k]! - largest[row]!) / total : 0;
      const relative = key === heaviest[row] ? 0 : dS[k]! - ofHeaviest[i]!;
      dS[k] = P[k]! * (relative - ofOthers[i]!) * (slope ? slope[k]! : 1);
    }
    if (isFirst && dsink) {
      const share = Math.exp(sink! - largest[row]!) / total;
      dsink[0]! -= share * (ofHeaviest[i]! + ofOthers[i]!);
    }
  }
  addProduct(rowsOf(dQ, rows), matrix(dS, n, m), rowsOf(K, keys), beta, checkpoint);
  addProduct(rowsOf(dK, keys), transposed(matrix(dS, n, m)), rowsOf(Q, rows), beta, checkpoint);
  addProduct(rowsOf(dV, keys), transposed(matrix(P, n, m)), G, 1, checkpoint);
  if (!isFirst || objective.kind !== 'target') return;
  for (const g of G.data) loss[0]! += 0.5 * g * g;
}
