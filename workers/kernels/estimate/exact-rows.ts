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
import { rotate } from '../rotary.js';
import { rowSoftmax } from '../softmax.js';
import { type AttendedRow, contributionsOf } from './contributions.js';
import type { RankOne } from './estimate.js';
import { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';
import { rotatedKeys } from './rotated-keys.js';
import { keyInputs, type RowOfHead } from './row-of-head.js';

const slice64 = (x: Float32Array | Float64Array, first: number, n: number): Float64Array =>
  Float64Array.from(x.subarray(first, first + n));

/** Softmax and P X^V of `rows`, all of one batch item. */
function attend(layer: AttentionLayer, rows: readonly RowOfHead[], passes: InputPasses) {
  const { dims, inputs, projections, scaling: beta, rotary, sinks } = layer;
  const { queryLength, heads, keyValueHeads, headDim: d, valueDim: dv } = dims;
  const { batchItem } = rows[0]!;
  const { keys: n, XK, XV } = keyInputs(layer, batchItem);
  const all = rows.map(({ head, row }) => {
    const shared = Math.floor((head * keyValueHeads) / heads);
    const query = new HeadWeights(projections.q_proj, head, d);
    const key = new HeadWeights(projections.k_proj, shared, d);
    const value = new HeadWeights(projections.v_proj, shared, dv);
    const width = projections.q_proj.inFeatures;
    const x = slice64(inputs.query.data, (batchItem * queryLength + row) * width, width);
    const q = query.addBias(query.apply(x));
    if (rotary) rotate(rotary, batchItem, row, q);
    return { batchItem, head, row, shared, query, key, value, x, q };
  });
  const rotated = new Map<number, Float64Array>();
  for (const { shared, key } of rotary ? all : []) {
    if (rotated.has(shared)) continue;
    rotated.set(shared, rotatedKeys(layer, key, batchItem, XK, n, passes));
  }
  const scores = rotary
    ? all.map(({ shared, q }) => passes.dots(rotated.get(shared)!, n, [q])[0]!)
    : passes.dots(
        XK,
        n,
        all.map(({ key, q }) => key.back(q)),
      );
  const weights = all.map(({ head, row, key, q }, k) => {
    passes.checkpoint();
    const shift = rotary ? 0 : key.biasDot(q);
    const logits = scores[k]!.map((s) => beta * (s + shift));
    return rowSoftmax(layer, logits, keysOfRow(layer, batchItem, row), sinks?.data[head]);
  });
  const PX = passes.combine(
    XV,
    n,
    weights.map(({ P }) => P),
  );
  return { all, n, XK, XV, rotated, weights, PX };
}

/** Rows of the attention output, (dv) each; `rows` are all of one batch item. */
export function exactOutputs(
  layer: AttentionLayer,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Float64Array[] {
  const { all, PX, weights } = attend(layer, rows, passes);
  return all.map(({ value }, k) => value.addBias(value.apply(PX[k]!), sumOf(weights[k]!.P)));
}

/** Contributions of `rows`, all of one batch item, by tensor name; the factors s beta included. */
export function exactContributions(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Map<string, RankOne>[] {
  return exactRows(problem, rows, passes).map((row) => contributionsOf(problem, row));
}

/** The backward pass of `rows`, all of one batch item. */
export function exactRows(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): AttendedRow[] {
  const { dims, objective, rotary } = problem;
  const { queryLength, heads, valueDim: dv } = dims;
  const { all, n, XK, XV, rotated, weights, PX } = attend(problem, rows, passes);
  const G = all.map(({ batchItem, head, row, value }, k) => {
    const at = ((batchItem * queryLength + row) * heads + head) * dv;
    const given = slice64(objective.tensor.data, at, dv);
    if (objective.kind === 'grad_output') return given;
    const O = value.addBias(value.apply(PX[k]!), sumOf(weights[k]!.P));
    return O.map((o, c) => o - given[c]!);
  });
  const dS = passes.dots(
    XV,
    n,
    all.map(({ value }, k) => value.back(G[k]!)),
  );
  const sinks = dS.map((t, k) => {
    passes.checkpoint();
    const { P, slope, sink } = weights[k]!;
    const shift = all[k]!.value.biasDot(G[k]!);
    const mean = t.reduce((sum, tj, j) => sum + P[j]! * (tj + shift), 0);
    for (let j = 0; j < t.length; j++) {
      t[j] = P[j]! * (t[j]! + shift - mean) * (slope ? slope[j]! : 1);
    }
    return -sink * mean;
  });
  const dSX = rotary ? [] : passes.combine(XK, n, dS);
  return all.map((row, k) => {
    const dSK = rotary
      ? passes.combine(rotated.get(row.shared)!, n, [dS[k]!])[0]!
      : row.key.addBias(row.key.apply(dSX[k]!), sumOf(dS[k]!));
    const { P } = weights[k]!;
    return { ...row, g: G[k]!, P, dS: dS[k]!, dSK, PX: PX[k]!, dSX: dSX[k], sink: sinks[k]! };
  });
}

const sumOf = (x: Float64Array): number => x.reduce((a, b) => a + b, 0);
