/**
 * The projection stage: Q, K and V of a wave's heads, and the right factors of the thin products.
 *
 *     frozen = X W^T + bias        adapter = s (X A^T) B^T        output = frozen + adapter
 *     us = [K B_Q | X^K A_K^T]     uv = X^V A_V^T
 *
 * Rotary positions turn queries and keys, both parts of them.
 */
import type { Projection, ProjectionName } from '../../problem.js';
import {
  type ExactPlan,
  PROJECT_TOKENS,
  roundUp,
  stretchesOf,
  type Unit,
  type Workspace,
} from '../attention/plan.js';
import type { Wasm } from '../inner/instance.js';
import { pack, packTransposed, rowsOf, slice } from '../inner/operands.js';
import { rotate } from '../rotary.js';

export interface ProjectTask {
  readonly kernel: 'exact';
  readonly step: 'project';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly projection: ProjectionName;
  /** Units of one batch item; the first has place `firstUnit` in its wave. */
  readonly units: readonly Unit[];
  readonly firstUnit: number;
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

/** Of consecutive heads of the projection. */
export interface ProjectionNorms {
  readonly projection: ProjectionName;
  readonly batchItem: number;
  readonly firstHead: number;
  readonly heads: readonly OutputNorms[];
}

/** n tokens from `first` on: their inputs X (n, in) and X A^T (n, r) in WebAssembly memory. */
interface Tokens {
  readonly first: number;
  readonly n: number;
  readonly X: number;
  readonly low: number;
}

export function runProject(task: ProjectTask, wasm: Wasm, checkpoint: () => void): ProjectionNorms {
  const { plan, projection: name } = task;
  const { dims, inputs, projections, rotary } = plan.problem;
  const { batchItem, sharedHead } = task.units[0]!;
  const projection = projections[name];
  const isQuery = name === 'q_proj';
  const length = isQuery ? dims.queryLength : dims.keyLength;
  const input = isQuery ? inputs.query : name === 'k_proj' ? inputs.key : inputs.value;
  const width = name === 'v_proj' ? dims.valueDim : dims.headDim;
  const headsHere = isQuery ? plan.group : 1;
  const firstHead = sharedHead * headsHere;
  const norms = Array.from({ length: task.units.length * headsHere }, () => {
    return { frozen: 0, adapter: 0, sum: 0 };
  });
  const save = { q_proj: saveQuery, k_proj: saveKey, v_proj: saveValue }[name];

  for (let first = task.first; first < task.last; first += PROJECT_TOKENS) {
    const n = Math.min(PROJECT_TOKENS, task.last - first);
    wasm.reset();
    const row = batchItem * length + first;
    const X = wasm.put(rowsOf(input, projection.inFeatures, row, n));
    const turn = (rows: Float32Array) => {
      if (rotary && name !== 'v_proj') rotate(rotary, batchItem, first, rows);
    };
    const tokens: Tokens = { first, n, X, low: lowRank(wasm, projection, X, n) };
    const mark = wasm.mark();
    for (const [head, ofHead] of norms.entries()) {
      checkpoint();
      wasm.release(mark);
      const output = projectHead(wasm, projection, firstHead + head, width, tokens, turn, ofHead);
      save(task, wasm, head, tokens, output);
    }
  }
  return { projection: name, batchItem, firstHead, heads: norms };
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

/** Output (n, width) of head number `index`, row-major and rotated; raises the norms. */
function projectHead(
  wasm: Wasm,
  projection: Projection,
  index: number,
  width: number,
  { n, X, low }: Tokens,
  turn: (rows: Float32Array) => void,
  norms: OutputNorms,
): number {
  const { weight, bias, adapter, inFeatures } = projection;
  // Passes over vectors go to a multiple of 4; what lies beyond the matrix is zero.
  const size = roundUp(n * width, 4);
  const output = wasm.allocFloats(size);
  if (!weight) {
    wasm.f32(output, size).fill(0);
    wasm.fn.copy_columns(n, width, X + 4 * index * width, inFeatures, output, width);
    turn(wasm.f32(output, n * width));
    norms.frozen = norms.sum = Math.max(norms.sum, wasm.fn.max_abs(output, size));
    return output;
  }
  const W = packTransposed(wasm, slice(weight.data, index, width * inFeatures), width, inFeatures);
  const values = wasm.f32(output, size).fill(0);
  if (bias) {
    const b = Float32Array.from(slice(bias.data, index, width));
    for (let i = 0; i < n; i++) values.set(b, i * width);
  }
  wasm.fn.gemm(n, width, inFeatures, X, inFeatures, W, output, width, true);
  turn(wasm.f32(output, n * width));
  const frozen = wasm.fn.max_abs(output, size);
  norms.frozen = Math.max(norms.frozen, frozen);
  if (!adapter) {
    norms.sum = Math.max(norms.sum, frozen);
    return output;
  }
  const { rank, scaling } = adapter;
  const added = wasm.allocFloats(size);
  const B = packTransposed(wasm, slice(adapter.B.data, index, width * rank), width, rank, scaling);
  wasm.f32(added, size).fill(0);
  wasm.fn.gemm(n, width, rank, low, rank, B, added, width, false);
  turn(wasm.f32(added, n * width));
  norms.adapter = Math.max(norms.adapter, wasm.fn.max_abs(added, size));
  wasm.fn.axpy(size, 1, added, output);
  norms.sum = Math.max(norms.sum, wasm.fn.max_abs(output, size));
  return output;
}

type Save = (task: ProjectTask, wasm: Wasm, head: number, tokens: Tokens, output: number) => void;

const saveQuery: Save = (task, wasm, head, { first, n, low }, output) => {
  const { plan, workspace: to } = task;
  const { queryLength, headDim: d } = plan.problem.dims;
  const { rq } = plan.thin;
  const place = task.firstUnit * plan.group + head;
  slice(to.Q, place, queryLength * d).set(wasm.f32(output, n * d), first * d);
  const largest = wasm.fn.largest_norm(n, d, output);
  slice(to.largestQ, place, stretchesOf(queryLength))[stretchesOf(first)] = largest;
  if (rq && head % plan.group === 0) {
    const lowQ = slice(to.lowQ, place / plan.group, queryLength * rq);
    lowQ.set(wasm.f32(low, n * rq), first * rq);
  }
};

const saveKey: Save = (task, wasm, head, { first, n, low }, output) => {
  const { plan, workspace: to } = task;
  const { headDim: d } = plan.problem.dims;
  const { rq, rk, us: ps } = plan.thin;
  const place = task.firstUnit + head;
  slice(to.K, place, plan.keys * d).set(wasm.f32(output, n * d), first * d);
  const largest = wasm.fn.largest_norm(n, d, output);
  slice(to.largestK, place, stretchesOf(plan.keys))[stretchesOf(first)] = largest;
  if (ps === 0) return;
  const B = plan.problem.projections.q_proj.adapter?.B.data;
  const us = wasm.allocFloats(n * ps);
  wasm.f32(us, n * ps).fill(0);
  copyColumns(wasm, low, rk, us + 4 * rq, ps, n);
  for (let x = 0; x < plan.group; x++) {
    if (B) {
      const queryHead = task.units[head]!.sharedHead * plan.group + x;
      const mark = wasm.mark();
      const packed = pack(wasm, slice(B, queryHead, d * rq), d, rq);
      wasm.fn.gemm(n, rq, d, output, d, packed, us, ps, false);
      wasm.release(mark);
    }
    const saved = slice(to.us, place * plan.group + x, plan.keys * ps);
    saved.set(wasm.f32(us, n * ps), first * ps);
  }
};

const saveValue: Save = (task, wasm, head, { first, n, low }, output) => {
  const { plan, workspace: to } = task;
  const { valueDim: dv } = plan.problem.dims;
  const { rv, uv: pv } = plan.thin;
  const place = task.firstUnit + head;
  slice(to.V, place, plan.keys * dv).set(wasm.f32(output, n * dv), first * dv);
  if (pv === 0) return;
  const uv = wasm.allocFloats(n * pv);
  wasm.f32(uv, n * pv).fill(0);
  copyColumns(wasm, low, rv, uv, pv, n);
  slice(to.uv, place, plan.keys * pv).set(wasm.f32(uv, n * pv), first * pv);
};

/** x (n, k) into the first columns of y (n, pitch). */
function copyColumns(wasm: Wasm, x: number, k: number, y: number, pitch: number, n: number): void {
  if (k === 0) return;
  const from = wasm.f32(x, n * k);
  const to = wasm.f32(y, n * pitch - (pitch - k));
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < k; c++) to[i * pitch + c] = from[i * k + c]!;
  }
}
