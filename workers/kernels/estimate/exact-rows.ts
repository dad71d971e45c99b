/**
 * What single query rows contribute to every gradient, in float64 from the inputs as they came.
 *
 * Keys and values are not projected for a few rows: the row's query is taken back to the space of the
 * inputs instead, where the logit is a product with X^K itself.
 *
 *     S_j  = beta W_K^T q . x^K_j        P = softmax(S)           PX = sum_j P_j x^V_j
 *     dP_j = W_V^T g . x^V_j             dS = P (dP - P.dP)       dSX = sum_j dS_j x^K_j
 *
 * with W the weights including the adapters; the biases of keys and values move all S_j, all dP_j of a row
 * alike. O = W_V PX + b_V sum_j P_j, dS K = W_K dSX + b_K sum_j dS_j: with a sink the first sum is below 1, with
 * a soft cap the second is not 0.
 * Cost: four passes over X a row. Under rotary positions the keys differ by more than their inputs: then
 * K is projected and rotated once for each head that has rows here, and S_j = beta q . k_j, dS K from it.
 */
import { keysOfRow } from '../../mask.js';
import type { AttentionLayer, AttentionProblem } from '../../problem.js';
import { slice } from '../inner/operands.js';
import { rotate } from '../rotary.js';
import { type RowSoftmax, rowSoftmax } from '../softmax.js';
import type { AttendedRows } from './contributions.js';
import { type HeadWeights, RowWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';
import { rotatedKeys } from './rotated-keys.js';
import { keyInputs, type RowOfHead } from './row-of-head.js';

type Weights = Pick<AttendedRows, 'query' | 'key' | 'value'>;

function weightsOf(layer: AttentionLayer, rows: readonly RowOfHead[]): Weights {
  const { dims, projections } = layer;
  const shared = rows.map((row) => row.shared);
  return {
    query: new RowWeights(
      projections.q_proj,
      rows.map(({ head }) => head),
      dims.headDim,
    ),
    key: new RowWeights(projections.k_proj, shared, dims.headDim),
    value: new RowWeights(projections.v_proj, shared, dims.valueDim),
  };
}

/** Inputs of the queries (m, in). */
function queryInputs(
  { inputs, dims, projections }: AttentionLayer,
  rows: readonly RowOfHead[],
): Float64Array {
  const width = projections.q_proj.inFeatures;
  const x = new Float64Array(rows.length * width);
  rows.forEach(({ batchItem, row }, k) => {
    x.set(slice(inputs.query.data, batchItem * dims.queryLength + row, width), k * width);
  });
  return x;
}

/** Softmax and P X^V of `rows`, all of one batch item. */
function attend(layer: AttentionLayer, rows: readonly RowOfHead[], passes: InputPasses) {
  const { dims, scaling: beta, rotary, sinks } = layer;
  const { batchItem } = rows[0]!;
  const { keys: n, XK, XV } = keyInputs(layer, batchItem);
  const weights = weightsOf(layer, rows);
  const { query, key } = weights;
  const x = queryInputs(layer, rows);
  const q = query.addBias(query.apply(x, passes));
  const rotated = new Map<HeadWeights, Float64Array>();
  if (rotary) {
    const d = dims.headDim;
    rows.forEach(({ row }, k) => void rotate(rotary, batchItem, row, slice(q, k, d), d));
    key.each(q, (one, mine) => {
      rotated.set(one, rotatedKeys(layer, one, batchItem, XK, n, passes));
      return mine;
    });
  }
  const P = rotary
    ? key.each(q, (one, mine) => passes.dots(rotated.get(one)!, n, mine))
    : passes.dots(XK, n, key.back(q, passes));
  const shifts = rotary ? null : key.biasDots(q);
  const softmax = rows.map(({ head, row }, k) => {
    passes.checkpoint();
    const shift = shifts ? shifts[k]! : 0;
    for (let j = k * n; j < (k + 1) * n; j++) P[j] = beta * (P[j]! + shift);
    return rowSoftmax(layer, slice(P, k, n), keysOfRow(layer, batchItem, row), sinks?.data[head]);
  });
  return { rows, ...weights, x, q, n, XK, XV, rotated, P, softmax, PX: passes.combine(XV, n, P) };
}

/** Rows of the attention output (m, dv); `rows` are all of one batch item. */
export function exactOutputs(
  layer: AttentionLayer,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Float64Array {
  return outputsOf(attend(layer, rows, passes), passes);
}

function outputsOf({ value, PX, P, n }: ReturnType<typeof attend>, passes: InputPasses) {
  return value.addBias(value.apply(PX, passes), sumsOf(P, n));
}

/** The backward pass of `rows`, all of one batch item. */
export function exactRows(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): AttendedRows {
  const attended = attend(problem, rows, passes);
  const { query, key, value, x, q, n, XK, XV, rotated, P, softmax, PX } = attended;
  const O = problem.objective.kind === 'target' ? outputsOf(attended, passes) : null;
  const g = upstreamOf(problem, rows, O);
  const dS = passes.dots(XV, n, value.back(g, passes));
  const sink = rowsOfScores(dS, P, value.biasDots(g), softmax, passes.checkpoint);
  const shared = { rows, query, key, value, x, q, g, P, dS, PX, sink };
  if (problem.rotary) {
    const dSK = key.each(dS, (one, mine) => passes.combine(rotated.get(one)!, n, mine));
    return { ...shared, dSK, dSX: undefined };
  }
  const dSX = passes.combine(XK, n, dS);
  return { ...shared, dSX, dSK: key.addBias(key.apply(dSX, passes), sumsOf(dS, n)) };
}

/** G, or O - Y (m, dv). */
function upstreamOf(
  { dims, objective }: AttentionProblem,
  rows: readonly RowOfHead[],
  O: Float64Array | null,
): Float64Array {
  const { queryLength, heads, valueDim: dv } = dims;
  const g = new Float64Array(rows.length * dv);
  rows.forEach(({ batchItem, head, row }, k) => {
    g.set(slice(objective.tensor.data, (batchItem * queryLength + row) * heads + head, dv), k * dv);
  });
  for (let c = 0; O && c < g.length; c++) g[c] = O[c]! - g[c]!;
  return g;
}

/** Rows of dP, without their shifts, become those of dS, in place. @returns what each row adds to its sink's gradient. */
function rowsOfScores(
  dS: Float64Array,
  P: Float64Array,
  shifts: Float64Array,
  softmax: readonly RowSoftmax[],
  checkpoint: () => void,
): Float64Array {
  const n = P.length / softmax.length;
  return Float64Array.from(softmax, ({ slope, sink }, k) => {
    checkpoint();
    const [first, last] = [k * n, (k + 1) * n];
    const shift = shifts[k]!;
    let mean = 0;
    for (let j = first; j < last; j++) mean += P[j]! * (dS[j]! + shift);
    for (let j = first; j < last; j++) {
      dS[j] = P[j]! * (dS[j]! + shift - mean) * (slope ? slope[j - first]! : 1);
    }
    return -sink * mean;
  });
}

/** Of each row of X (m, n). */
function sumsOf(X: Float64Array, n: number): Float64Array {
  const sums = new Float64Array(X.length / n);
  for (let k = 0, at = 0; k < sums.length; k++) {
    for (let j = 0; j < n; j++, at++) sums[k]! += X[at]!;
  }
  return sums;
}
