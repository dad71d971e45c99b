/** Memory that each kernel will take at most, beside the tensors of the request and of its answer. */

import {
  CONTRACT_TOKENS,
  makeWorkspace as makeExactWorkspace,
  makePlan,
} from '../../../workers/kernels/attention/plan.js';
import { CONTRACT_TASKS } from '../../../workers/kernels/exact/tasks.js';
import { SCRATCH_BYTES } from '../../../workers/kernels/low-rank/arithmetic/scratch.js';
import { GROUP, GROUP_SUMS } from '../../../workers/kernels/low-rank/chain-job.js';
import { BLOCK } from '../../../workers/kernels/low-rank/head/block.js';
import {
  MOST_SEGMENTS,
  SHORTEST_SEGMENT,
  SUMS_BUDGET,
} from '../../../workers/kernels/low-rank/head/layout.js';
import { SAMPLED_FEATURES } from '../../../workers/kernels/low-rank/plan/plan-choice.js';
import { makeWorkspace } from '../../../workers/kernels/reference/workspace.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
  PROJECTIONS,
  type Projection,
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
/** Its drawn features at most. */
const DRAWN_FEATURES = Math.max(...SAMPLED_FEATURES);

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
  // Both sides: queries, and keys with values.
  const parts = 2 * CONTRACT_TASKS + batch + Math.ceil((batch * tokens) / CONTRACT_TOKENS);
  const ranks = PROJECTIONS.map((name) => rankOf(layer.projections[name]));
  const inputs = PROJECTIONS.map((name) => layer.projections[name].inFeatures);
  const widest = Math.max(...inputs);
  const rank = Math.max(...ranks) + 8;
  const partBytes =
    4 * (ranks.reduce((sum, r) => sum + r + 8, 0) * (widest + heads * (headDim + valueDim)));
  const rows = 8 * (queryLength + keyLength) * (headDim + valueDim + rank);
  const worker =
    4 * (widest * (rank + 512 + heads * (headDim + valueDim)) + 4 * rank * (headDim + valueDim));
  return workspace + parts * partBytes + 4 * (rows + worker);
}

/** Copies that the parts of a large problem take: inputs of their heads, and their rows of the results. Only one kernel at a time has parts. */
export function copiedBytes(layer: Layer): number {
  const { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim } = layer.dims;
  const outputs = queryLength * heads * valueDim;
  const keys = keyLength * keyValueHeads * (headDim + valueDim);
  const states = hasAttentionStates(layer) ? 2 * (queryLength * heads * headDim + keys) : 0;
  return 8 * batch * (2 * outputs + states);
}

/** Memory of the float64 kernel. */
export function referenceBytes(layer: Layer, gradients: boolean): number {
  return tally((memory) => makeWorkspace(layer, gradients, memory)) + copiedBytes(layer);
}

export function lowRankBytes(layer: Layer, options: ChooseOptions): number {
  const { features } = options;
  const { batch, heads, queryLength, keyLength, headDim, valueDim } = layer.dims;
  const width = Math.max(headDim, valueDim) + 8;
  const m = features ?? MOST_FEATURES;
  const inputs = PROJECTIONS.reduce((sum, name) => sum + layer.projections[name].inFeatures, 0);
  const ranks = PROJECTIONS.reduce((sum, name) => sum + rankOf(layer.projections[name]), 0);
  const plan = PLAN_BYTES + 8 * (16 * width * width + width * (inputs + ranks));
  const length = Math.max(queryLength, keyLength);
  const columns = 4 * width + 2 * ranks + width * factorsOf(layer, options, width);
  const sums = (m + DRAWN_FEATURES) * columns;
  const affordable = Math.max(1, Math.floor(SUMS_BUDGET / (2 * sums)));
  const segments = Math.min(MOST_SEGMENTS, affordable, Math.ceil(length / SHORTEST_SEGMENT));
  // Those of the segments, over keys and over queries, their totals, and one that is added up.
  const head = (2 * segments + 3) * sums;
  const together = Math.min(GROUP, batch * heads);
  const all = Math.min(together * head, GROUP_SUMS + head);
  const scratch = Math.min(SCRATCH_BYTES, 20 * sums + 16 * BLOCK * columns);
  // What a head keeps of its rows, and what one head has of them in work beside it.
  const kept = 3 * length * (headDim + valueDim);
  const rows = 16 * (queryLength + keyLength) * (width + ranks) + (together - 1) * kept;
  const heldByHead = plan + 8 * (queryLength + keyLength);
  return batch * heads * heldByHead + 8 * (all + rows) + scratch;
}

export const rankOf = ({ adapter }: Projection): number => adapter?.rank ?? 0;

/**
 * Columns of the thin factors that sums over keys and over queries have for each column of V, as many as a head is wide where a
 * rotation or gradients of the inputs stand between. 0: there are none, or nobody asked for low-rank, which is taken where
 * it is cheap.
 */
function factorsOf(
  { projections, rotary }: Layer,
  { method, outputOnly, inputGradients }: ChooseOptions,
  width: number,
): number {
  if (method !== 'low_rank' || outputOnly) return 0;
  if (rotary || inputGradients) return width;
  return rankOf(projections.q_proj) + rankOf(projections.k_proj);
}

/** The workspace of the exact kernel once more, coordinates and narrowed inputs, and the plans of its heads. */
export function sampledBytes(layer: Layer, options: ChooseOptions): number {
  const { batch, heads, queryLength, keyLength } = layer.dims;
  const rows = batch * heads * (queryLength + keyLength);
  return exactBytes(layer, options) + 4 * 100 * rows + batch * heads * SAMPLED_PLAN_BYTES;
}
