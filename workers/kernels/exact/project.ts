/**
 * The projection stage: Q, K and V of a wave's heads, and the right factors of the thin products.
 *
 *     frozen = X W^T + bias        adapter = s (X A^T) B^T        output = frozen + adapter
 *     us = [K B_Q | X^K A_K^T]     uv = X^V A_V^T
 *
 * Rotary positions rotate queries and keys, both parts of them.
 */
import type { Projection, ProjectionName } from '../../problem.js';
import {
  type ExactPlan,
  type HeadGroup,
  PROJECT_TOKENS,
  stretchesOf,
  type Workspace,
} from '../attention/plan.js';
import type { Wasm } from '../inner/instance.js';
import { pack, packTransposed, rotaryRows, rowsOf, slice } from '../inner/operands.js';

export interface ProjectTask {
  readonly kernel: 'exact';
  readonly step: 'project';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly projection: ProjectionName;
  /** Head groups of one batch item; the first has place `firstHeadGroup` in its wave. */
  readonly headGroups: readonly HeadGroup[];
  readonly firstHeadGroup: number;
  /** Tokens [first, last) */
  readonly first: number;
  readonly last: number;
}

/** Largest absolute entries of what a projection puts out for one head, before sqrt(beta). */
export interface OutputNorms {
  frozen: number;
  adapter: number;
  sum: number;
}

/** Norms of consecutive heads of the projection. */
export interface ProjectionNorms {
  readonly projection: ProjectionName;
  readonly batchItem: number;
  readonly firstHead: number;
  readonly heads: readonly OutputNorms[];
}

/** n tokens from `first` on: where their inputs X (n, in) and X A^T (n, r) are. */
interface Tokens {
  readonly first: number;
  readonly n: number;
  readonly X: number;
  readonly low: number;
}

export function runProject(task: ProjectTask, wasm: Wasm, checkpoint: () => void): ProjectionNorms {
  const { plan, projection: name } = task;
  const { dims, inputs, projections, rotary } = plan.problem;
  const { batchItem, sharedHead } = task.headGroups[0]!;
  const projection = projections[name];
  const isQuery = name === 'q_proj';
  const length = isQuery ? dims.queryLength : dims.keyLength;
  const input = isQuery ? inputs.query : name === 'k_proj' ? inputs.key : inputs.value;
  const width = name === 'v_proj' ? dims.valueDim : dims.headDim;
  const headsHere = isQuery ? plan.group : 1;
  const firstHead = sharedHead * headsHere;
  const norms = Array.from({ length: task.headGroups.length * headsHere }, () => {
    return { frozen: 0, adapter: 0, sum: 0 };
  });
  const rows = isQuery ? length : plan.keys;
  const [outputs, save] = {
    q_proj: [task.workspace.Q, saveQuery] as const,
    k_proj: [task.workspace.K, saveKey] as const,
    v_proj: [task.workspace.V, saveValue] as const,
  }[name];

  for (let first = task.first; first < task.last; first += PROJECT_TOKENS) {
    const n = Math.min(PROJECT_TOKENS, task.last - first);
    wasm.reset();
    const row = batchItem * length + first;
    const X = wasm.put(rowsOf(input, projection.inFeatures, row, n));
    const tables =
      rotary && name !== 'v_proj' ? rotaryRows(wasm, rotary, batchItem, first, n) : null;
    const rotateRows = (at: number) => {
      if (tables) wasm.fn.rotate(n, width, tables.width, tables.cos, tables.sin, at, false);
    };
    const tokens: Tokens = { first, n, X, low: lowRank(wasm, projection, X, n) };
    const mark = wasm.mark();
    for (const [head, ofHead] of norms.entries()) {
      checkpoint();
      wasm.release(mark);
      const place = task.firstHeadGroup * headsHere + head;
      const output = stretch(outputs, place, rows, width, tokens);
      const at = wasm.room(output);
      projectHead(wasm, projection, firstHead + head, width, tokens, rotateRows, ofHead, at);
      wasm.keep(output, at);
      save(task, wasm, head, tokens, at);
    }
  }
  return { projection: name, batchItem, firstHead, heads: norms };
}

/** Rows of `tokens` of matrix number `index` of x, all of them (rows, width). */
function stretch(
  x: Float32Array,
  index: number,
  rows: number,
  width: number,
  { first, n }: Pick<Tokens, 'first' | 'n'>,
): Float32Array {
  return slice(x, index, rows * width).subarray(first * width, (first + n) * width);
}

/** X A^T (n, r), or 0 without an adapter. */
export function lowRank(wasm: Wasm, projection: Projection, X: number, n: number): number {
  const { adapter, inFeatures } = projection;
  if (!adapter) return 0;
  const low = wasm.allocFloats(n * adapter.rank);
  const A = packTransposed(wasm, adapter.A.data, adapter.rank, inFeatures);
  wasm.fn.gemm(n, adapter.rank, inFeatures, X, inFeatures, A, low, adapter.rank, false);
  return low;
}

/** Output (n, width) of head number `index`, rotated, at address `output`; raises the norms. */
function projectHead(
  wasm: Wasm,
  projection: Projection,
  index: number,
  width: number,
  { n, X, low }: Tokens,
  rotateRows: (at: number) => void,
  norms: OutputNorms,
  output: number,
): void {
  const { weight, bias, adapter, inFeatures } = projection;
  const size = n * width;
  if (!weight) {
    wasm.fn.copy_columns(n, width, X + 4 * index * width, inFeatures, output, width);
    rotateRows(output);
    norms.frozen = norms.sum = Math.max(norms.sum, wasm.fn.largest(size, output));
    return;
  }
  const W = packTransposed(wasm, slice(weight.data, index, width * inFeatures), width, inFeatures);
  wasm.fn.gemm(n, width, inFeatures, X, inFeatures, W, output, width, false);
  if (bias) wasm.fn.add_row(n, width, wasm.put(slice(bias.data, index, width)), output);
  rotateRows(output);
  const frozen = wasm.fn.largest(size, output);
  norms.frozen = Math.max(norms.frozen, frozen);
  if (!adapter) {
    norms.sum = Math.max(norms.sum, frozen);
    return;
  }
  const { rank, scaling } = adapter;
  const added = wasm.allocFloats(size);
  const B = packTransposed(wasm, slice(adapter.B.data, index, width * rank), width, rank, scaling);
  wasm.fn.gemm(n, width, rank, low, rank, B, added, width, false);
  rotateRows(added);
  norms.adapter = Math.max(norms.adapter, wasm.fn.largest(size, added));
  wasm.fn.combine(size, 1, added, 1, output);
  norms.sum = Math.max(norms.sum, wasm.fn.largest(size, output));
}

type Save = (task: ProjectTask, wasm: Wasm, head: number, tokens: Tokens, output: number) => void;

const saveQuery: Save = (task, wasm, head, { first, n, low }, output) => {
  const { plan, workspace: to } = task;
  const { queryLength, headDim: d } = plan.problem.dims;
  const { rq } = plan.thin;
  const place = task.firstHeadGroup * plan.group + head;
  const largest = wasm.fn.largest_norm(n, d, output);
  slice(to.largestQ, place, stretchesOf(queryLength))[stretchesOf(first)] = largest;
  if (rq && head % plan.group === 0) {
    stretch(to.lowQ, place / plan.group, queryLength, rq, { first, n }).set(wasm.f32(low, n * rq));
  }
};

const saveKey: Save = (task, wasm, head, tokens, output) => {
  const { plan, workspace: to } = task;
  const { headDim: d } = plan.problem.dims;
  const { rq, rk, us: ps } = plan.thin;
  const { first, n, low } = tokens;
  const place = task.firstHeadGroup + head;
  const largest = wasm.fn.largest_norm(n, d, output);
  slice(to.largestK, place, stretchesOf(plan.keys))[stretchesOf(first)] = largest;
  if (ps === 0) return;
  const B = plan.problem.projections.q_proj.adapter?.B.data;
  for (let x = 0; x < plan.group; x++) {
    const mark = wasm.mark();
    const right = stretch(to.us, place * plan.group + x, plan.keys, ps, tokens);
    const us = wasm.room(right);
    // What fills up whole vectors is zeros.
    wasm.view(right, us).fill(0);
    if (rk) wasm.fn.copy_columns(n, rk, low, rk, us + 4 * rq, ps);
    if (B) {
      const queryHead = task.headGroups[head]!.sharedHead * plan.group + x;
      const packed = pack(wasm, slice(B, queryHead, d * rq), d, rq);
      wasm.fn.gemm(n, rq, d, output, d, packed, us, ps, false);
    }
    wasm.keep(right, us);
    wasm.release(mark);
  }
};

const saveValue: Save = (task, wasm, head, tokens) => {
  const { plan, workspace: to } = task;
  const { rv, uv: pv } = plan.thin;
  if (pv === 0) return;
  const right = stretch(to.uv, task.firstHeadGroup + head, plan.keys, pv, tokens);
  const uv = wasm.room(right);
  wasm.view(right, uv).fill(0);
  wasm.fn.copy_columns(tokens.n, rv, tokens.low, rv, uv, pv);
  wasm.keep(right, uv);
};
