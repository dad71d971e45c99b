/**
 * One attention head in float64, forward and backward, with the formulas as they stand in the
 * textbook. This is the oracle for every faster kernel: it is written for reading.
 *
 *     S = beta Q K^T            P = softmax over each row of S            O = P V
 *     G = O - Y (objective 1/2 ||O - Y||_F^2) or the given dLoss/dO
 *     dP = G V^T                dS_ij = P_ij (dP_ij - G_i . O_i)          dsink = -sum_i Psink_i G_i . O_i
 *     dQ = beta dS K            dK = beta dS^T Q                          dV = P^T G
 *
 * With a soft cap S = c tanh(beta Q K^T / c), and dS takes its slope 1 - tanh^2; a sink is one more logit in
 * each row's sum, and Psink its share. A row that sees no key has P = 0.
 *
 * Rows are taken in blocks, so that no Lq x Lk matrix is ever kept.
 */
import { Matrix } from 'ml-matrix';
import { type Cancelled, CancelledError } from '../../job.js';
import type { Range } from '../../mask.js';
import { rowSoftmax } from '../softmax.js';

const BLOCK_ROWS = 64;

export interface HeadLayer {
  /** Q (Lq, d), K (Lk, d), V (Lk, dv) of one head. */
  readonly Q: Matrix;
  readonly K: Matrix;
  readonly V: Matrix;
  /** beta */
  readonly scaling: number;
  /** c; absent: no cap. */
  readonly softcap?: number | undefined;
  /** Absent: none. */
  readonly sink?: number | undefined;
  /** Keys that a row sees. */
  readonly keysOfRow: (row: number) => Range;
}

export interface HeadProblem extends HeadLayer {
  /** Y or G, (Lq, dv). */
  readonly objective: { readonly kind: 'target' | 'grad_output'; readonly matrix: Matrix };
}

export interface HeadGradient {
  readonly O: Matrix;
  readonly dQ: Matrix;
  readonly dK: Matrix;
  readonly dV: Matrix;
  readonly dsink: number;
  /** 1/2 ||O - Y||_F^2; 0 when the upstream gradient was given. */
  readonly loss: number;
}

/** Blocks of rows, each with its P, the slope of the cap and the share of the sink. */
function* blocks(layer: HeadLayer, cancelled: Cancelled) {
  const { Q, K, scaling: beta } = layer;
  const KT = K.transpose();
  for (let first = 0; first < Q.rows; first += BLOCK_ROWS) {
    if (cancelled()) throw new CancelledError();
    const last = Math.min(first + BLOCK_ROWS, Q.rows) - 1;
    const rows = (M: Matrix) => M.subMatrix(first, last, 0, M.columns - 1);
    const q = rows(Q);
    const P = q.mmul(KT).mul(beta);
    const slopes = Matrix.ones(P.rows, P.columns);
    const sinks = Array.from({ length: P.rows }, (_, i) => {
      const logits = Float64Array.from(P.getRow(i));
      const row = rowSoftmax(layer, logits, layer.keysOfRow(first + i), layer.sink);
      P.setRow(i, row.P);
      if (row.slope) slopes.setRow(i, row.slope);
      return row.sink;
    });
    yield { first, rows, q, P, slopes, sinks };
  }
}

/**
 * O = P V
 *
 * @throws {CancelledError} when `cancelled` answers true between two blocks of rows.
 */
export function headOutput(layer: HeadLayer, cancelled: Cancelled): Matrix {
  const O = Matrix.zeros(layer.Q.rows, layer.V.columns);
  for (const { first, P } of blocks(layer, cancelled)) O.setSubMatrix(P.mmul(layer.V), first, 0);
  return O;
}

/**
 * @throws {CancelledError} when `cancelled` answers true between two blocks of rows.
 */
export function headGradient(problem: HeadProblem, cancelled: Cancelled): HeadGradient {
  const { Q, K, V, objective, scaling: beta } = problem;
  const O = Matrix.zeros(Q.rows, V.columns);
  const dQ = Matrix.zeros(Q.rows, Q.columns);
  const dK = Matrix.zeros(K.rows, K.columns);
  const dV = Matrix.zeros(V.rows, V.columns);
  const VT = V.transpose();
  let loss = 0;
  let dsink = 0;

  for (const { first, rows, q, P, slopes, sinks } of blocks(problem, cancelled)) {
    const o = P.mmul(V);
    let g = rows(objective.matrix);
    if (objective.kind === 'target') {
      g = Matrix.sub(o, g);
      loss += 0.5 * Matrix.mul(g, g).sum();
    }

    const t = g.mmul(VT);
    const means = Matrix.mul(g, o).sum('row');
    t.subColumnVector(means);
    const dS = Matrix.mul(P, t).mul(slopes);
    for (let i = 0; i < sinks.length; i++) dsink -= sinks[i]! * means[i]!;

    O.setSubMatrix(o, first, 0);
    dQ.setSubMatrix(dS.mmul(K).mul(beta), first, 0);
    dK.add(dS.transpose().mmul(q).mul(beta));
    dV.add(P.transpose().mmul(g));
  }
  return { O, dQ, dK, dV, dsink, loss };
}
