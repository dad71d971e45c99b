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
import { rotateBack } from '../rotary.js';
import type { AttendedRow } from './contributions.js';
import { frobenius } from './estimate.js';
import type { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

export type Sizes = Readonly<Record<'query' | 'key' | 'value', number>>;

/** Frobenius norms of the three differences. @param used the row as the kernel has it. */
export function stateSizes(
  problem: AttentionProblem,
  exact: AttendedRow,
  used: AttendedRow,
  passes: InputPasses,
): Sizes {
  const { rotary, scaling: beta } = problem;
  const { query, key, value } = exact;
  const dQ = minus(exact.dSK, used.dSK);
  if (rotary) rotateBack(rotary, exact.batchItem, exact.row, dQ, dQ.length);
  // Every key is rotated back by an angle of its own: then W_K^T is bounded by its norm.
  const normBack = (weights: HeadWeights, y: Float64Array) =>
    frobenius(weights.back([y], passes)[0]!);
  const back = (q: Float64Array) => (rotary ? normOf(key) * frobenius(q) : normBack(key, q));
  const ofKeys =
    frobenius(minus(exact.dS, used.dS)) * back(exact.q) +
    frobenius(used.dS) * back(minus(exact.q, used.q));
  const ofValues =
    frobenius(minus(exact.P, used.P)) * normBack(value, exact.g) +
    frobenius(used.P) * normBack(value, minus(exact.g, used.g));
  return { query: beta * normBack(query, dQ), key: beta * ofKeys, value: ofValues };
}

const minus = (a: Float64Array, b: Float64Array) => a.map((x, k) => x - b[k]!);

/** Frobenius norm of the weights of a head. */
function normOf(weights: HeadWeights): number {
  return frobenius(
    Float64Array.from({ length: weights.width }, (_, c) => frobenius(weights.row(c))),
  );
}
