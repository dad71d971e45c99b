/** Squared norms of the rows that the certificate is made of. */
import type { Real } from '../arithmetic/arithmetic.js';
import { NORMS } from './layout.js';
import type { KeyRows } from './rows/key-rows.js';
import type { QueryRows } from './rows/query-rows.js';
import type { Workspace } from './workspace.js';

/** |x - centre|^2 of the columns [from, to) of row r of x (n, width). */
function squared(
  x: Real,
  width: number,
  r: number,
  from: number,
  to: number,
  centre: Float64Array | null = null,
): number {
  let sum = 0;
  for (let a = from; a < to; a++) {
    const value = x[r * width + a] - (centre ? centre[a] : 0);
    sum += value * value;
  }
  return sum;
}

/**
 * Of each key of a block: |v|^2 and |u|^2 of the six gradient tensors (K B_Q, K, X^K, X^K A_K', X^V,
 * X^V A_V'), all about their centres; 0 for a frozen projection.
 */
export function squaredNorms(space: Workspace, rows: KeyRows): Float64Array[] {
  const { head, plan } = space;
  const { d, dv, query, key, value } = head;
  const p = query.rank + key.rank;
  const norms = Array.from({ length: NORMS }, () => new Float64Array(rows.count));
  const [v, kb, k, xk, xa, xv, va] = norms;
  for (let r = 0; r < rows.count; r++) {
    v[r] = squared(rows.v, dv, r, 0, dv);
    if (query.rank > 0) {
      kb[r] = squared(rows.u, p, r, 0, query.rank);
      k[r] = squared(rows.k, d, r, 0, d);
    }
    if (key.rank > 0) {
      xk[r] = squared(rows.xk, key.effective.inputs, r, 0, key.effective.inputs);
      xa[r] = squared(rows.u, p, r, query.rank, p);
    }
    if (value.rank > 0) {
      xv[r] = squared(rows.xv, value.effective.inputs, r, 0, value.effective.inputs, plan.centreXV);
      va[r] = squared(rows.va, value.rank, r, 0, value.rank, plan.centreVA);
    }
  }
  return norms;
}

/**
 * Squared norm of the left factor of the six gradient tensors in row r of a block of queries: X^Q,
 * X^Q A_Q', Q B_K, Q, G B_V, G; 0 for a frozen projection.
 */
export function leftNorms(
  space: Workspace,
  rows: QueryRows,
  gradient: Real,
  gradientB: Real,
  r: number,
): number[] {
  const { d, dv, query, key, value } = space.head;
  const p = query.rank + key.rank;
  const { inputs } = query.effective;
  return [
    query.rank > 0 ? squared(rows.xq, inputs, r, 0, inputs) : 0,
    squared(rows.l, p, r, 0, query.rank),
    squared(rows.l, p, r, query.rank, p),
    key.rank > 0 ? squared(rows.q, d, r, 0, d) : 0,
    squared(gradientB, value.rank, r, 0, value.rank),
    value.rank > 0 ? squared(gradient, dv, r, 0, dv) : 0,
  ];
}
