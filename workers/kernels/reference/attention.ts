/**
 * One attention head in float64, forward and backward, with the formulas as they stand in the
 * textbook. This is the oracle for every faster kernel: it is written for reading.
 *
 *     S = beta Q K^T            P = softmax over each row of S            O = P V
 *     G = O - Y (objective 1/2 ||O - Y||_F^2) or the given dLoss/dO
 *     dP = G V^T                dS_ij = P_ij (dP_ij - G_i . O_i)
 *     dQ = beta dS K            dK = beta dS^T Q                          dV = P^T G
 *
 * Rows are taken in blocks, so that no Lq x Lk matrix is ever kept.
 */
import { Matrix } from 'ml-matrix';
import { type Cancelled, CancelledError } from '../../job.js';

const BLOCK_ROWS = 64;

export interface HeadLayer {
  /** Q (Lq, d), K (Lk, d), V (Lk, dv) of one head. */
  readonly Q: Matrix;
  readonly K: Matrix;
  readonly V: Matrix;
  /** beta */
  readonly scaling: number;
  /** Row i sees keys j <= i only. */
  readonly causal: boolean;
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
  /** 1/2 ||O - Y||_F^2; 0 when the upstream gradient was given. */
  readonly loss: number;
}

/** Rows first, first + 1, ... of the scores become probabilities, in place. */
function softmaxRows(S: Matrix, first: number, causal: boolean): void {
  for (let i = 0; i < S.rows; i++) {
    const visible = causal ? Math.min(first + i + 1, S.columns) : S.columns;
    let max = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < visible; j++) max = Math.max(max, S.get(i, j));
    let sum = 0;
    for (let j = 0; j < S.columns; j++) {
      const e = j < visible ? Math.exp(S.get(i, j) - max) : 0;
      S.set(i, j, e);
      sum += e;
    }
    S.mulRow(i, 1 / sum);
  }
}

/** Blocks of rows, each with its P. */
function* blocks({ Q, K, scaling: beta, causal }: HeadLayer, cancelled: Cancelled) {
  const KT = K.transpose();
  for (let first = 0; first < Q.rows; first += BLOCK_ROWS) {
    if (cancelled()) throw new CancelledError();
    const last = Math.min(first + BLOCK_ROWS, Q.rows) - 1;
    const rows = (M: Matrix) => M.subMatrix(first, last, 0, M.columns - 1);
    const q = rows(Q);
    const P = q.mmul(KT).mul(beta);
    softmaxRows(P, first, causal);
    yield { first, rows, q, P };
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

  for (const { first, rows, q, P } of blocks(problem, cancelled)) {
    const o = P.mmul(V);
    let g = rows(objective.matrix);
    if (objective.kind === 'target') {
      g = Matrix.sub(o, g);
      loss += 0.5 * Matrix.mul(g, g).sum();
    }

    const t = g.mmul(VT);
    t.subColumnVector(Matrix.mul(g, o).sum('row'));
    const dS = Matrix.mul(P, t);

    O.setSubMatrix(o, first, 0);
    dQ.setSubMatrix(dS.mmul(K).mul(beta), first, 0);
    dK.add(dS.transpose().mmul(q).mul(beta));
    dV.add(P.transpose().mmul(g));
  }
  return { O, dQ, dK, dV, loss };
}
