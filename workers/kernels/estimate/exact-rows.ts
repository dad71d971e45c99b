/**
 * What single query rows contribute to every gradient, in float64 from the inputs as they came.
 *
 * Keys and values are not projected for a few rows: the row's query is taken back to the space of the
 * inputs instead, where the logit is a product with X^K itself.
 *
 *     S_j  = beta W_K^T q . x^K_j        P = softmax(S)           PX = sum_j P_j x^V_j
 *     dP_j = W_V^T g . x^V_j             dS = P (dP - P.dP)       dSX = sum_j dS_j x^K_j
 *
 * with W the weights including the adapters. The biases of keys and values move all S_j, all dP_j of a
 * row alike and drop out. O = W_V PX + b_V; and dS K = W_K dSX, for the entries of dS add up to zero.
 * Cost: four passes over X a row. Under rotary positions the keys differ by more than their inputs: then
 * K is projected and turned once for each head that has rows here, and S_j = beta q . k_j, dS K from it.
 */
import { type AttentionLayer, type AttentionProblem, keysOf } from '../../problem.js';
import { rotate } from '../rotary.js';
import { type AttendedRow, contributionsOf } from './contributions.js';
import type { RankOne } from './estimate.js';
import { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';
import { keyInputs, type RowOfHead } from './row-of-head.js';
import { turnedKeys } from './turned-keys.js';

const slice64 = (x: Float32Array | Float64Array, first: number, n: number): Float64Array =>
  Float64Array.from(x.subarray(first, first + n));

/** Softmax and P X^V of `rows`, all of one batch item. */
function attend(layer: AttentionLayer, rows: readonly RowOfHead[], passes: InputPasses) {
  const { dims, inputs, projections, scaling: beta, causal, rotary } = layer;
  const { queryLength, heads, keyValueHeads, headDim: d, valueDim: dv } = dims;
  const { batchItem } = rows[0]!;
  const n = keysOf(layer, batchItem);
  const { XK, XV } = keyInputs(layer, batchItem, n);
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
  const turned = new Map<number, Float64Array>();
  for (const { shared, key } of rotary ? all : []) {
    if (turned.has(shared)) continue;
    turned.set(shared, turnedKeys(layer, key, batchItem, XK, n, passes));
  }
  const scores = rotary
    ? all.map(({ shared, q }) => passes.dots(turned.get(shared)!, n, [q])[0]!)
    : passes.dots(
        XK,
        n,
        all.map(({ key, q }) => key.back(q)),
      );
  const P = all.map(({ row }, k) => {
    passes.checkpoint();
    const logits = scores[k]!.map((s) => beta * s);
    return softmax(logits, causal ? Math.min(row + 1, n) : n);
  });
  return { all, n, XK, XV, turned, P, PX: passes.combine(XV, n, P) };
}

/** Rows of the attention output, (dv) each; `rows` are all of one batch item. */
export function exactOutputs(
  layer: AttentionLayer,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Float64Array[] {
  const { all, PX } = attend(layer, rows, passes);
  return all.map(({ value }, k) => value.addBias(value.apply(PX[k]!)));
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
  const { all, n, XK, XV, turned, P, PX } = attend(problem, rows, passes);
  const G = all.map(({ batchItem, head, row, value }, k) => {
    const at = ((batchItem * queryLength + row) * heads + head) * dv;
    const given = slice64(objective.tensor.data, at, dv);
    if (objective.kind === 'grad_output') return given;
    return value.addBias(value.apply(PX[k]!)).map((o, c) => o - given[c]!);
  });
  const dS = passes.dots(
    XV,
    n,
    all.map(({ value }, k) => value.back(G[k]!)),
  );
  dS.forEach((t, k) => {
    passes.checkpoint();
    const p = P[k]!;
    const mean = t.reduce((sum, tj, j) => sum + p[j]! * tj, 0);
    for (let j = 0; j < t.length; j++) t[j] = p[j]! * (t[j]! - mean);
  });
  const dSX = rotary ? [] : passes.combine(XK, n, dS);
  return all.map((row, k) => {
    const dSK = rotary
      ? passes.combine(turned.get(row.shared)!, n, [dS[k]!])[0]!
      : row.key.apply(dSX[k]!);
    return { ...row, g: G[k]!, dS: dS[k]!, dSK, PX: PX[k]!, dSX: dSX[k] };
  });
}

/** Weights of the first `visible` keys; 0 for the others. */
function softmax(logits: Float64Array, visible: number): Float64Array {
  const seen = logits.subarray(0, visible);
  const max = seen.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const p = new Float64Array(logits.length);
  let sum = 0;
  for (let j = 0; j < visible; j++) sum += p[j] = Math.exp(seen[j]! - max);
  for (let j = 0; j < visible; j++) p[j]! /= sum;
  return p;
}
