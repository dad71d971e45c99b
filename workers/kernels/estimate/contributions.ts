/** From the share of query rows in the backward pass to what they contribute to each gradient. */
import type { AttentionProblem, ProjectionName } from '../../problem.js';
import { slice } from '../inner/operands.js';
import { rotateBack } from '../rotary.js';
import type { RankOnes } from './estimate.js';
import type { RowWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';
import type { RowOfHead } from './row-of-head.js';

/** Rows of one batch item: m of them, one after the other in each matrix. */
export interface AttendedRows {
  readonly rows: readonly RowOfHead[];
  readonly query: RowWeights;
  readonly key: RowWeights;
  readonly value: RowWeights;
  /** Inputs of the rows (m, in), their rotated queries (m, d), and their upstream gradients (m, dv). */
  readonly x: Float64Array;
  readonly q: Float64Array;
  readonly g: Float64Array;
  /** Rows of P and dS (m, keys), and their products dS K (m, d), P X^V (m, in). */
  readonly P: Float64Array;
  readonly dS: Float64Array;
  readonly dSK: Float64Array;
  readonly PX: Float64Array;
  /** dS X^K (m, in); not needed under rotary positions. */
  readonly dSX: Float64Array | undefined;
  /** What each row adds to the gradient of its head's sink; 0 without one. */
  readonly sink: Float64Array;
}

/** What rows contribute to each gradient, by tensor name. */
export type Contributions = Map<string, RankOnes>;

/**
 * The factors s beta included.
 *
 *     lora_A_Q: (B_Q^T dSK) x^T      lora_A_K: (B_K^T q) dSX^T      lora_A_V: (B_V^T g) PX^T
 *     lora_B_Q: dSK (A_Q x)^T        lora_B_K: q (A_K dSX)^T        lora_B_V: g (A_V PX)^T
 *
 * Under rotary positions dSK is rotated back, and those of the keys are left out: see RotatedKeyRows.
 */
export function contributionsOf(
  problem: AttentionProblem,
  attended: AttendedRows,
  passes: InputPasses,
): Contributions {
  const { dims, projections, scaling: beta, rotary } = problem;
  const { rows, query, key, value, x, q, g, PX, dSX } = attended;
  const [heads, shared] = [rows.map(({ head }) => head), rows.map((row) => row.shared)];
  const out: Contributions = new Map();
  const add = (
    name: ProjectionName,
    weights: RowWeights,
    ofOutputs: Float64Array,
    ofInputs: Float64Array,
    owners: readonly number[],
  ) => {
    const { adapter, outFeatures } = projections[name];
    if (!adapter) return;
    const scale = adapter.scaling * (name === 'v_proj' ? 1 : beta);
    const up = scaled(weights.up(ofOutputs, passes), scale);
    const low = scaled(weights.low(ofInputs, passes), scale);
    const size = (outFeatures / headsOf(name, dims)) * adapter.rank;
    out.set(`${name}.lora_A`, { u: up, v: ofInputs, offsets: rows.map(() => 0) });
    out.set(`${name}.lora_B`, { u: ofOutputs, v: low, offsets: owners.map((one) => one * size) });
  };
  add('q_proj', query, rotary ? rotatedBack(problem, attended) : attended.dSK, x, heads);
  if (dSX) add('k_proj', key, q, dSX, shared);
  add('v_proj', value, g, PX, shared);
  if (problem.sinks) out.set('sinks', ofSinks(attended.sink, heads));
  return out;
}

const headsOf = (name: ProjectionName, { heads, keyValueHeads }: AttentionProblem['dims']) =>
  name === 'q_proj' ? heads : keyValueHeads;

/** One number for each row. */
export function ofSinks(sink: Float64Array, heads: readonly number[]): RankOnes {
  return { u: sink, v: new Float64Array(sink.length).fill(1), offsets: heads };
}

/** dS K before the rotation of each query. */
export function rotatedBack({ rotary }: AttentionProblem, { rows, dSK }: AttendedRows) {
  const d = dSK.length / rows.length;
  const dQ = dSK.slice();
  rows.forEach(({ batchItem, row }, k) => {
    if (rotary) rotateBack(rotary, batchItem, row, slice(dQ, k, d), d);
  });
  return dQ;
}

/** In place. */
export function scaled(x: Float64Array, scale: number): Float64Array {
  for (let k = 0; k < x.length; k++) x[k]! *= scale;
  return x;
}
