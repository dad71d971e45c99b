/**
 * What a sampled row carries before it cancels: the scale of what float32 rounds away.
 *
 * Entries of dS = P (dP - G.O) can cancel to nothing, in a row whose softmax is saturated or between rows, while each is
 * rounded relative to its terms. By Cauchy and Schwarz
 *
 *     sum_j P_ij |G_i| |v_j| |u_j| <= |G_i| sqrt(sum_j P_ij |v_j|^2) sqrt(sum_j P_ij |u_j|^2),
 *
 * and rounding of different rows is independent, so squares of rows add up. A weight of P is rounded as its logit is,
 * which is relative to |q_i| |k_j|: |k_j| goes with |v_j|, with |u_j|, or with neither in the sum of the row.
 */
import { frobenius } from '../../../estimate/estimate.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { addSlots } from '../../chain/run.js';
import { BLOCK } from '../../head/block.js';
import { fullWidth } from '../../head/head.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { QueryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';

/** Of v, and of what meets a row in the six tensors: K B_Q, K, X^K, X^K A_K', X^V, X^V A_V'. */
const FACTORS = 7;
const OF_K = 2;
/** Those, and those times |k|^2. */
export const SQUARES = 2 * FACTORS;

/** Sums over the keys of a segment: sum_j P_ij of the squares of a key (n, SQUARES). */
export class TermSums {
  readonly #squares: readonly Real[];
  readonly #columns: Real;
  readonly #block: Real;
  readonly #sums: Float64Array;

  constructor(
    private readonly space: Workspace,
    private readonly n: number,
  ) {
    const { arithmetic } = space;
    this.#squares = Array.from({ length: FACTORS }, () => arithmetic.array(BLOCK));
    this.#columns = arithmetic.array(BLOCK * SQUARES);
    this.#block = arithmetic.array(n * SQUARES);
    this.#sums = arithmetic.sums(n * SQUARES);
  }

  /** p (n, count): the exact rows of P over the block of keys. */
  add(keys: KeyRows, p: Real): void {
    const { arithmetic } = this.space;
    const { count } = keys;
    this.#square(keys);
    const ofK = this.#squares[OF_K];
    this.#squares.forEach((squares, c) => {
      for (let r = 0, at = c; r < count; r++, at += SQUARES) {
        this.#columns[at] = squares[r];
        this.#columns[at + FACTORS] = squares[r] * ofK[r];
      }
    });
    arithmetic.gemm(this.n, SQUARES, count, p, this.#columns, this.#block);
    arithmetic.fold(this.n * SQUARES, this.#block, this.#sums);
  }

  save(slot: Float64Array): void {
    slot.set(this.#sums);
  }

  #square({ count, v, k, u, xk, low, xv, va }: KeyRows): void {
    const { arithmetic, head } = this.space;
    const { d, dv, query, key, value } = head;
    const [ofV, ofKB, ofK, ofX, ofXA, ofXV, ofVA] = this.#squares;
    const square = (x: Real, width: number, out: Real) =>
      arithmetic.rowDots(count, width, x, x, out);
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

function squaredNorm(x: ArrayLike<number>, from: number, width: number): number {
  let sum = 0;
  for (let c = from; c < from + width; c++) sum += x[c] ** 2;
  return sum;
}

/** Roundings of what a row carries before it cancels, in the chain and in the rows that it is compared with; and of a logit. */
export const UNITS = 8;

/** Of each sampled row, the square of what may be rounded away of tensor t, in units of float32, without the tensor's scale. */
export function squaredTerms(
  { head, arithmetic }: Workspace,
  slots: readonly Float64Array[],
  { rows, gradient }: { readonly rows: QueryRows; readonly gradient: Real },
  t: number,
): Float64Array {
  const n = rows.count;
  const { d, dv, query, key, value } = head;
  const sums = new Float64Array(n * SQUARES);
  addSlots(arithmetic.checkpoint, slots, 0, slots.length, sums);
  const full = fullWidth(head).scores;
  const squareOf =
    (x: ArrayLike<number>, pitch: number, from = 0, width = pitch) =>
    (i: number) =>
      squaredNorm(x, i * pitch + from, width);
  const p = query.rank + key.rank;
  const [q, g] = [squareOf(rows.q, d), squareOf(gradient, dv)];
  const logits = squareOf(rows.scaled, d);
  const [upK, upV] = [frobenius(key.up) ** 2, frobenius(value.up) ** 2];
  const left = [
    squareOf(rows.xq, query.effective.inputs),
    full ? squareOf(rows.low, query.rank) : squareOf(rows.l, p, 0, query.rank),
    (i: number) => q(i) * upK,
    q,
    (i: number) => g(i) * upV,
    g,
  ][t];
  return Float64Array.from({ length: n }, (_, i) => {
    const root = (factor: number) => Math.sqrt(sums[i * SQUARES + factor]);
    const [v, u] = [t < 4 ? root(0) : 1, root(1 + t)];
    const logit = Math.max(
      root(OF_K) * v * u,
      v * root(FACTORS + 1 + t),
      t < 4 ? root(FACTORS) * u : 0,
    );
    const carried = UNITS * (v * u + Math.sqrt(logits(i)) * logit);
    return left(i) * (t < 4 ? g(i) : 1) * carried ** 2;
  });
}
