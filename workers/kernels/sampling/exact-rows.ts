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
 * Cost: four passes over X a row.
 */
import type { AttentionProblem, ProjectionName } from '../../../src/lora/problem.js';
import type { Tensor } from '../../../src/tensor/tensor.js';
import type { RankOne } from './estimate.js';
import { HeadWeights } from './head-weights.js';
import type { InputPasses } from './input-passes.js';

/** A query row of a head of a batch item. */
export interface RowOfHead {
  readonly batchItem: number;
  readonly head: number;
  readonly row: number;
}

const slice64 = (x: Float32Array | Float64Array, first: number, n: number): Float64Array =>
  Float64Array.from(x.subarray(first, first + n));

/** Contributions of `rows`, all of one batch item, by tensor name; the factors s beta included. */
export function exactContributions(
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): Map<string, RankOne>[] {
  const { dims, inputs, projections, objective, scaling: beta, causal } = problem;
  const { queryLength, keyLength, heads, keyValueHeads, headDim: d, valueDim: dv } = dims;
  const { batchItem } = rows[0]!;
  const of = (tensor: Tensor, columns: number) =>
    tensor.data.subarray(batchItem * keyLength * columns, (batchItem + 1) * keyLength * columns);
  const XK = of(inputs.key, projections.k_proj.inFeatures);
  const XV = of(inputs.value, projections.v_proj.inFeatures);

  const all = rows.map(({ head, row }) => {
    const shared = Math.floor((head * keyValueHeads) / heads);
    const query = new HeadWeights(projections.q_proj, head, d);
    const key = new HeadWeights(projections.k_proj, shared, d);
    const value = new HeadWeights(projections.v_proj, shared, dv);
    const width = projections.q_proj.inFeatures;
    const x = slice64(inputs.query.data, (batchItem * queryLength + row) * width, width);
    const q = query.addBias(query.apply(x));
    const at = ((batchItem * queryLength + row) * heads + head) * dv;
    const given = slice64(objective.tensor.data, at, dv);
    return { head, row, shared, query, key, value, x, q, given };
  });

  const scores = passes.dots(
    XK,
    keyLength,
    all.map(({ key, q }) => key.back(q)),
  );
  const P = all.map(({ row }, k) => {
    passes.checkpoint();
    const logits = scores[k]!.map((s) => beta * s);
    return softmax(logits, causal ? Math.min(row + 1, keyLength) : keyLength);
  });
  const PX = passes.combine(XV, keyLength, P);
  const G = all.map(({ value, given }, k) => {
    if (objective.kind === 'grad_output') return given;
    return value.addBias(value.apply(PX[k]!)).map((o, c) => o - given[c]!);
  });
  const dS = passes.dots(
    XV,
    keyLength,
    all.map(({ value }, k) => value.back(G[k]!)),
  );
  dS.forEach((t, k) => {
    passes.checkpoint();
    const p = P[k]!;
    const mean = t.reduce((sum, tj, j) => sum + p[j]! * tj, 0);
    for (let j = 0; j < t.length; j++) t[j] = p[j]! * (t[j]! - mean);
  });
  const dSX = passes.combine(XK, keyLength, dS);

  return all.map(({ head, shared, query, key, value, x, q }, k) => {
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
    const dSK = key.apply(dSX[k]!);
    add('q_proj', [query.up(dSK), x], [dSK, query.low(x)], head, d);
    add('k_proj', [key.up(q), dSX[k]!], [q, key.low(dSX[k]!)], shared, d);
    add('v_proj', [value.up(G[k]!), PX[k]!], [G[k]!, value.low(PX[k]!)], shared, dv);
    return out;
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
