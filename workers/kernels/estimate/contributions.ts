/** From a query row's share in the backward pass to what it contributes to each gradient. */
import type { AttentionProblem, ProjectionName } from '../../problem.js';
import { rotateBack } from '../rotary.js';
import type { RankOne } from './estimate.js';
import type { HeadWeights } from './head-weights.js';
import type { RowOfHead } from './row-of-head.js';

export interface AttendedRow extends RowOfHead {
  /** Number of the key/value head. */
  readonly shared: number;
  readonly query: HeadWeights;
  readonly key: HeadWeights;
  readonly value: HeadWeights;
  /** Input of the row, its rotated query, and its upstream gradient. */
  readonly x: Float64Array;
  readonly q: Float64Array;
  readonly g: Float64Array;
  /** Rows of P and dS (keys), and their products dS K (d), P X^V (in). */
  readonly P: Float64Array;
  readonly dS: Float64Array;
  readonly dSK: Float64Array;
  readonly PX: Float64Array;
  /** dS X^K (in); not needed under rotary positions. */
  readonly dSX: Float64Array | undefined;
  /** What the row adds to the gradient of its head's sink; 0 without one. */
  readonly sink: number;
}

/**
 * By tensor name; the factors s beta included.
 *
 *     lora_A_Q: (B_Q^T dSK) x^T      lora_A_K: (B_K^T q) dSX^T      lora_A_V: (B_V^T g) PX^T
 *     lora_B_Q: dSK (A_Q x)^T        lora_B_K: q (A_K dSX)^T        lora_B_V: g (A_V PX)^T
 *
 * Under rotary positions dSK is rotated back, and those of the keys are left out: see RotatedKeyRows.
 */
export function contributionsOf(problem: AttentionProblem, row: AttendedRow): Map<string, RankOne> {
  const { dims, projections, scaling: beta, rotary } = problem;
  const { headDim: d, valueDim: dv } = dims;
  const { batchItem, head, shared, query, key, value, x, q, g, PX, dSX } = row;
  const out = new Map<string, RankOne>();
  const add = (
    name: ProjectionName,
    A: readonly [Float64Array, Float64Array],
    B: readonly [Float64Array, Float64Array],
    owner: number,
    width: number,
  ) => {
    const { adapter } = projections[name];
    if (!adapter) return;
    const scale = adapter.scaling * (name === 'v_proj' ? 1 : beta);
    const offset = owner * width * adapter.rank;
    out.set(`${name}.lora_A`, { u: A[0].map((y) => scale * y), v: A[1], offset: 0 });
    out.set(`${name}.lora_B`, { u: B[0].map((y) => scale * y), v: B[1], offset });
  };

  const dQ = row.dSK.slice();
  if (rotary) rotateBack(rotary, batchItem, row.row, dQ, d);
  add('q_proj', [query.up(dQ), x], [dQ, query.low(x)], head, d);
  if (dSX) add('k_proj', [key.up(q), dSX], [q, key.low(dSX)], shared, d);
  add('v_proj', [value.up(g), PX], [g, value.low(PX)], shared, dv);
  if (problem.sinks) {
    out.set('sinks', { u: Float64Array.of(row.sink), v: Float64Array.of(1), offset: head });
  }
  return out;
}
