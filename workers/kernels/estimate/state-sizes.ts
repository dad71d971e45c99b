/**
 * How much the rounding of one query row adds to the errors of the gradients of the inputs:
 *
 *     dX^Q: beta W_Q^T (dS K) on row i      dX^K: beta dS (x) W_K^T q      dX^V: P (x) W_V^T g
 *
 * each the difference of the row in float64 and the row as the kernel has it. For attention states, whose projections
 * are the identity, these are the errors of dQ, dK and dV themselves; see sumErrorEstimate (row-error.ts) for what
 * follows from the sizes of drawn rows.
 */
import type { AttentionProblem } from '../../problem.js';
import { slice } from '../inner/operands.js';
import { type AttendedRows, rotatedBack } from './contributions.js';
import { frobenius } from './estimate.js';
import type { RowWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

export type Sizes = Readonly<Record<'query' | 'key' | 'value', number>>;

/** Frobenius norms of the three differences, of each row. @param used the rows as the kernel has them. */
export function stateSizes(
  problem: AttentionProblem,
  exact: AttendedRows,
  used: AttendedRows,
  passes: InputPasses,
): Sizes[] {
  const { rotary, scaling: beta } = problem;
  const { rows, query, key, value } = exact;
  const m = rows.length;
  const dQ = minus(rotatedBack(problem, exact), rotatedBack(problem, used));
  const back = (weights: RowWeights, y: Float64Array) => norms(weights.back(y, passes), m);
  // Every key is rotated back by an angle of its own: then W_K^T is bounded by its norm.
  const bounded = (q: Float64Array) =>
    key.each(q, (weights, mine, { length }) => {
      const norm = frobenius(weights.rows(passes));
      return norms(mine, length).map((x) => norm * x);
    });
  const ofKey = (q: Float64Array) => (rotary ? bounded(q) : back(key, q));
  const ofQueries = back(query, dQ);
  const ofKeys = [
    [norms(minus(exact.dS, used.dS), m), ofKey(exact.q)],
    [norms(used.dS, m), ofKey(minus(exact.q, used.q))],
  ] as const;
  const ofValues = [
    [norms(minus(exact.P, used.P), m), back(value, exact.g)],
    [norms(used.P, m), back(value, minus(exact.g, used.g))],
  ] as const;
  const sum = (products: typeof ofKeys, k: number) =>
    products.reduce((total, [x, y]) => total + x[k]! * y[k]!, 0);
  return rows.map((_, k) => ({
    query: beta * ofQueries[k]!,
    key: beta * sum(ofKeys, k),
    value: sum(ofValues, k),
  }));
}

const minus = (a: Float64Array, b: Float64Array) => a.map((x, k) => x - b[k]!);

/** Of the m rows of X. */
function norms(X: Float64Array, m: number): Float64Array {
  return Float64Array.from({ length: m }, (_, k) => frobenius(slice(X, k, X.length / m)));
}
