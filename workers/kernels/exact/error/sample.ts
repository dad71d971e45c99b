/**
 * The rounding error of the exact kernel: sampled rows once more through the kernel, and in float64.
 *
 * The kernel's contribution of a row is what it put into the sums: thin factors and weights E, dS in
 * float32, bit by bit as before. Their products with the inputs are made in float64 here, so that what
 * remains between the two contributions is rounding in projections, scores, softmax and backward.
 * Rounding while adding up thousands of rows is not seen this way: `summationError` (estimate.ts) allows for it.
 */
import type { AttentionProblem, Rotary } from '../../../problem.js';
import type { ExactPlan, Workspace } from '../../attention/plan.js';
import { type AttendedRow, contributionsOf } from '../../estimate/contributions.js';
import {
  addCluster,
  addDraw,
  type Contribution,
  type ErrorSums,
  makeErrorSums,
  type RankOne,
} from '../../estimate/estimate.js';
import { exactRows } from '../../estimate/exact-rows.js';
import { HeadWeights } from '../../estimate/head-weights.js';
import { InputPasses } from '../../estimate/input-passes.js';
import { RotatedKeyRows } from '../../estimate/rotated-keys.js';
import { keyInputs, type RowOfHead } from '../../estimate/row-of-head.js';
import { type Sizes, stateSizes } from '../../estimate/state-sizes.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { blocksOf, type Draw, type KernelRow, kernelRows } from './kernel-rows.js';

export interface SampleTask {
  readonly kernel: 'exact';
  readonly step: 'sample';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly wave: number;
  readonly draws: readonly Draw[];
  /** Independent draws of all tasks of the wave. */
  readonly clusters: number;
  /** By tensor name; this task adds to them, and no other at the same time. */
  readonly sums: Readonly<Record<string, ErrorSums>>;
}

/** Of one draw: |Delta| / p of the gradients of the inputs, where these are wanted. */
export interface DrawnSizes extends Sizes {
  readonly cluster: number;
}

export function runSample(task: SampleTask, wasm: Wasm, checkpoint: () => void): DrawnSizes[] {
  const books = new Books(task);
  const sizes: DrawnSizes[] = [];
  for (const batchItem of new Set(
    task.draws.map(({ partition }) => partition.headGroup.batchItem),
  )) {
    const draws = task.draws.filter(({ partition }) => partition.headGroup.batchItem === batchItem);
    sizes.push(...sampleBatchItem(task, draws, batchItem, books, wasm, checkpoint));
  }
  books.close();
  return sizes;
}

/** Where draws are booked: single ones in the sums of the task, those of a cluster together. */
class Books {
  readonly #clusters = new Map<number, { draws: number; sums: SampleTask['sums'] }>();

  constructor(readonly task: SampleTask) {
    for (const { cluster } of task.draws) {
      const draws = 1 + (this.#clusters.get(cluster)?.draws ?? 0);
      this.#clusters.set(cluster, { draws, sums: task.sums });
    }
    for (const entry of this.#clusters.values()) {
      if (entry.draws === 1) entry.draws = task.clusters;
      else entry.sums = this.#empty();
    }
  }

  #empty(): SampleTask['sums'] {
    const sizes = Object.entries(this.task.sums).map(([name, { error }]) => [name, error.length]);
    return Object.fromEntries(sizes.map(([name, size]) => [name, makeErrorSums(size as number)]));
  }

  add(draw: Draw, name: string, exact: Contribution, used: Contribution | null): void {
    const { sums, draws } = this.#clusters.get(draw.cluster)!;
    addDraw(sums[name]!, exact, used, draw.probability, draws);
  }

  close(): void {
    for (const { sums } of this.#clusters.values()) {
      if (sums === this.task.sums) continue;
      for (const [name, part] of Object.entries(sums)) {
        addCluster(this.task.sums[name]!, part, this.task.clusters);
      }
    }
  }
}

function sampleBatchItem(
  task: SampleTask,
  draws: readonly Draw[],
  batchItem: number,
  books: Books,
  wasm: Wasm,
  checkpoint: () => void,
): DrawnSizes[] {
  const problem = task.plan.problem as AttentionProblem;
  const { k_proj } = problem.projections;
  const kernel = blocksOf(task, draws).flatMap((block) =>
    kernelRows(task, wasm, block, checkpoint),
  );
  wasm.reset();
  const passes = new InputPasses(wasm, checkpoint);
  const rows = draws.map(
    ({ partition, row }): RowOfHead => ({ batchItem, head: partition.head, row }),
  );
  const exact = exactRows(problem, rows, passes);
  const full = fullRows(task, draws, kernel, passes);
  const thin = thinContributions(task, draws, kernel, passes);
  draws.forEach((draw, k) => {
    const used = new Map([...(full[k] ? contributionsOf(problem, full[k]!) : []), ...thin[k]!]);
    for (const [name, contribution] of contributionsOf(problem, exact[k]!)) {
      books.add(draw, name, contribution, used.get(name)!);
    }
  });
  if (problem.rotary && k_proj.adapter) sampleRotatedKeys(task, draws, exact, full, books, passes);
  // Only gradients of the inputs take the values at full width.
  if (!task.plan.full.dV) return [];
  return draws.map(({ cluster, probability }, k) => {
    const { query, key, value } = stateSizes(problem, exact[k]!, full[k]!, passes);
    const over = 1 / probability;
    return { cluster, query: over * query, key: over * key, value: over * value };
  });
}

/** The adapter of the keys under rotary positions: differences between the rows, head by head. */
function sampleRotatedKeys(
  task: SampleTask,
  draws: readonly Draw[],
  exact: readonly AttendedRow[],
  full: readonly AttendedRow[],
  books: Books,
  passes: InputPasses,
): void {
  const problem = task.plan.problem as AttentionProblem & { readonly rotary: Rotary };
  for (const shared of new Set(exact.map((row) => row.shared))) {
    const { batchItem } = exact[0]!;
    const { XK } = keyInputs(problem, batchItem);
    const keys = new RotatedKeyRows(problem, batchItem, shared, XK, passes);
    draws.forEach((draw, k) => {
      if (exact[k]!.shared !== shared) return;
      const { A, B } = keys.of(exact[k]!, full[k]!);
      for (const [name, difference] of [
        ['k_proj.lora_A', A],
        ['k_proj.lora_B', B],
      ] as const) {
        books.add(draw, name, difference, null);
      }
    });
  }
}

/** Rank-one matrices of the adapters that take the thin path, as the kernel has them. */
function thinContributions(
  { plan, workspace }: SampleTask,
  draws: readonly Draw[],
  kernel: readonly KernelRow[],
  passes: InputPasses,
): Map<string, RankOne>[] {
  const { dims, inputs, projections, scaling: beta } = plan.problem;
  const { queryLength, headDim: d, valueDim: dv } = dims;
  const { rq, rk, rv } = plan.thin;
  const { batchItem } = draws[0]!.partition.headGroup;
  const { keys, XK, XV } = keyInputs(plan.problem, batchItem);
  const [t, e] = [kernel.map((row) => row.t), kernel.map((row) => row.e)];
  const tX = rk ? passes.combine(XK, keys, t) : [];
  const eX = rv ? passes.combine(XV, keys, e) : [];
  const tK = rq ? keySums(plan, workspace, draws, t, passes) : [];

  return draws.map(({ partition, row }, k) => {
    const { ws, wv, q, g, rights, rightv, sink } = kernel[k]!;
    const out = new Map<string, RankOne>();
    if (plan.problem.sinks) {
      out.set('sinks', { u: Float64Array.of(sink), v: Float64Array.of(1), offset: partition.head });
    }
    if (rq) {
      const width = projections.q_proj.inFeatures;
      const x = slice(inputs.query.data, batchItem * queryLength + row, width);
      const scale = beta * projections.q_proj.adapter!.scaling;
      const u = rights.subarray(0, rq).map((y) => scale * y);
      out.set('q_proj.lora_A', { u, v: Float64Array.from(x), offset: 0 });
      const lows = ws.subarray(rk, rk + rq).map((y) => scale * y);
      out.set('q_proj.lora_B', { u: tK[k]!, v: lows, offset: partition.head * d * rq });
    }
    if (rk) {
      const scale = beta * projections.k_proj.adapter!.scaling;
      const u = ws.subarray(0, rk).map((y) => scale * y);
      out.set('k_proj.lora_A', { u, v: tX[k]!, offset: 0 });
      const low = rights.subarray(rq).map((y) => scale * y);
      out.set('k_proj.lora_B', { u: q, v: low, offset: partition.headGroup.sharedHead * d * rk });
    }
    if (rv) {
      const scale = projections.v_proj.adapter!.scaling;
      const u = wv.subarray(0, rv).map((y) => scale * y);
      out.set('v_proj.lora_A', { u, v: eX[k]!, offset: 0 });
      const low = rightv.map((y) => scale * y);
      out.set('v_proj.lora_B', { u: g, v: low, offset: partition.headGroup.sharedHead * dv * rv });
    }
    return out;
  });
}

/** t K of each draw, with one pass over the keys of each head group. */
function keySums(
  plan: ExactPlan,
  workspace: Workspace,
  draws: readonly Draw[],
  t: readonly Float64Array[],
  passes: InputPasses,
): Float64Array[] {
  const sums: Float64Array[] = [];
  const size = plan.keys * plan.problem.dims.headDim;
  const headGroupOf = ({ partition }: Draw) => Math.floor(partition.place / plan.group);
  for (const headGroup of new Set(draws.map(headGroupOf))) {
    const mine = draws.flatMap((draw, k) => (headGroupOf(draw) === headGroup ? [k] : []));
    const n = t[mine[0]!]!.length;
    const K = slice(workspace.K, headGroup, size).subarray(0, n * plan.problem.dims.headDim);
    const found = passes.combine(
      K,
      n,
      mine.map((k) => t[k]!),
    );
    for (const [x, k] of mine.entries()) sums[k] = found[x]!;
  }
  return sums;
}

/**
 * Rows at full width: P and dS of the kernel, and its Q, G and dS K, for the formulas of float64. For
 * adapters on the thin path there is something better: what the kernel itself has for them.
 */
function fullRows(
  { plan }: SampleTask,
  draws: readonly Draw[],
  kernel: readonly KernelRow[],
  passes: InputPasses,
): AttendedRow[] {
  const { dQ, dK, dV } = plan.full;
  if (!dQ && !dK && !dV) return [];
  const problem = plan.problem as AttentionProblem;
  const { dims, projections, inputs, rotary } = problem;
  const { batchItem } = draws[0]!.partition.headGroup;
  const { keys, XK, XV } = keyInputs(problem, batchItem);
  const P = kernel.map(({ e, inverse }) => e.map((x) => x * inverse));
  const dS = kernel.map(({ t, inverse }) => t.map((x) => x * inverse));
  const PX = passes.combine(XV, keys, P);
  const dSX = rotary ? [] : passes.combine(XK, keys, dS);
  return draws.map(({ partition, row }, k) => {
    const { head, headGroup } = partition;
    const width = projections.q_proj.inFeatures;
    const { q, g, rights, sink } = kernel[k]!;
    return {
      ...{ batchItem, head, row, shared: headGroup.sharedHead, q, g, sink },
      query: new HeadWeights(projections.q_proj, head, dims.headDim),
      key: new HeadWeights(projections.k_proj, headGroup.sharedHead, dims.headDim),
      value: new HeadWeights(projections.v_proj, headGroup.sharedHead, dims.valueDim),
      x: Float64Array.from(slice(inputs.query.data, batchItem * dims.queryLength + row, width)),
      ...{ P: P[k]!, dS: dS[k]!, dSK: rights, PX: PX[k]!, dSX: dSX[k] },
    };
  });
}
