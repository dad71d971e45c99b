/** Memory that each kernel will take at most, beside the tensors of the request and of its answer. */

import {
  makeWorkspace as makeExactWorkspace,
  makePlan,
} from '../../../workers/kernels/attention/plan.js';
import { makeWorkspace } from '../../../workers/kernels/reference/workspace.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
  PROJECTIONS,
} from '../../../workers/problem.js';
import type { Lease } from '../../../workers/tensor/shared-memory.js';
import type { ChooseOptions } from '../../solver/choose-low-rank.js';

type Layer = AttentionLayer & Partial<AttentionProblem>;

/** Features that low-rank takes at most when it is asked for without a number. */
export const MOST_FEATURES = 1024;
/** What the plan of a head of sampled keeps. */
const SAMPLED_PLAN_BYTES = 2 ** 18;
/** A plan of low-rank: bases, trials and drawn features of one head. */
const PLAN_BYTES = 2 ** 18;
/** Tokens that are contracted together at most, and tasks of a contraction. */
const CONTRACT_TOKENS = 2048;
const CONTRACT_TASKS = 16;

/** Counts what is asked of it and hands out nothing: what allocates is what says how much. */
function tally(run: (memory: Lease) => void): number {
  let bytes = 0;
  const count = (size: number) => (n: number) => {
    bytes += size * n;
    return new Float64Array(0);
  };
  run({ int32: count(4), float32: count(4), float64: count(8) } as unknown as Lease);
  return bytes;
}

/** The workspace of a wave, the sums of its contractions, and what each worker has in its own memory. */
export function exactBytes(
  layer: Layer,
  { attentionOutput, inputGradients }: ChooseOptions,
): number {
  const problem = { ...layer, objective: layer.objective ?? null };
  const plan = makePlan(problem, { attentionOutput, inputGradients });
  const workspace = tally((memory) => makeExactWorkspace(plan, memory));
  const { batch, queryLength, keyLength, heads, headDim, valueDim } = layer.dims;
  const tokens = Math.max(queryLength, keyLength);
  const parts = CONTRACT_TASKS + batch + Math.ceil((batch * tokens) / CONTRACT_TOKENS);
  const ranks = PROJECTIONS.map((name) => layer.projections[name].adapter?.rank ?? 0);
  const inputs = PROJECTIONS.map((name) => layer.projections[name].inFeatures);
  const widest = Math.max(...inputs);
  const rank = Math.max(...ranks) + 8;
  const partBytes =
    4 * (ranks.reduce((sum, r) => sum + r + 8, 0) * (widest + heads * (headDim + valueDim)));
  const rows = 8 * (queryLength + keyLength) * (headDim + valueDim + rank);
  const worker =
    4 * (widest * (rank + 512 + heads * (headDim + valueDim)) + 4 * rank * (headDim + valueDim));
  return workspace + parts * partBytes + 4 * (rows + worker) + copiedBytes(layer);
}

/** Of the heads that a part of a large problem takes, and of its rows in what the parts answer. */
function copiedBytes(layer: Layer): number {
  const { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim } = layer.dims;
  const outputs = queryLength * heads * valueDim;
  const keys = keyLength * keyValueHeads * (headDim + valueDim);
  const states = hasAttentionStates(layer) ? 2 * (queryLength * heads * headDim + keys) : 0;
  return 8 * batch * (2 * outputs + states);
}

/** Of the float64 kernel. */
export function referenceBytes(layer: Layer, gradients: boolean): number {
  return tally((memory) => makeWorkspace(layer, gradients, memory)) + copiedBytes(layer);
}

export function lowRankBytes(layer: Layer, { features }: ChooseOptions): number {
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const width = Math.max(headDim, valueDim) + 8;
  const m = features ?? MOST_FEATURES;
  const inputs = PROJECTIONS.reduce((sum, name) => sum + layer.projections[name].inFeatures, 0);
  const ranks = PROJECTIONS.reduce(
    (sum, name) => sum + (layer.projections[name].adapter?.rank ?? 0),
    0,
  );
  const plan = PLAN_BYTES + 8 * (16 * width * width + width * (inputs + ranks));
  const segments = Math.ceil(Math.max(queryLength, keyLength) / 4096) + 1;
  const sums = 8 * segments * m * (4 * width + 2 * ranks);
  const rows = 16 * (queryLength + keyLength) * (width + ranks);
  return batch * heads * (plan + 8 * (queryLength + keyLength)) + 8 * (sums + rows);
}

/** The workspace of the exact kernel once more, coordinates and narrowed inputs, and the plans of its heads. */
export function sampledBytes(layer: Layer, options: ChooseOptions): number {
  const { batch, heads, queryLength, keyLength } = layer.dims;
  const rows = batch * heads * (queryLength + keyLength);
  return exactBytes(layer, options) + 4 * 100 * rows + batch * heads * SAMPLED_PLAN_BYTES;
}
