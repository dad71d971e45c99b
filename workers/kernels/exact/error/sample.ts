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
import {
  type AttendedRows,
  type Contributions,
  contributionsOf,
  ofSinks,
  scaled,
} from '../../estimate/contributions.js';
import {
  addCluster,
  addDifference,
  addDraws,
  type ErrorSums,
  makeErrorSums,
  type RankOnes,
} from '../../estimate/estimate.js';
import { exactRows } from '../../estimate/exact-rows.js';
import { pick } from '../../estimate/head-weights.js';
import { InputPasses } from '../../estimate/input-passes.js';
import { RotatedKeyRows } from '../../estimate/rotated-keys.js';
import { keyInputs, type RowOfHead } from '../../estimate/row-of-head.js';
import { type Sizes, stateSizes } from '../../estimate/state-sizes.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';
import { type Draw, type KernelRows, kernelRows } from './kernel-rows.js';

export interface SampleTask {
  readonly kernel: 'exact';
  readonly step: 'sample';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly wave: number;
  readonly draws: readonly Draw[];
  /** Independent draws of all tasks of the wave. */
  readonly clusters: number;
  /** Sums by tensor name. Only this task adds to them at the same time. */
  readonly sums: Readonly<Record<string, ErrorSums>>;
}

/** One draw's |Delta| / p of the gradients of the inputs, where these are wanted. */
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

interface Place {
  readonly draws: number;
  readonly sums: SampleTask['sums'];
}

/** Where draws are booked: single ones in the sums of the task, those of a cluster together. */
class Books {
  readonly #single: Place;
  /** Sums of the clusters that have more than one draw. */
  readonly #clusters = new Map<number, Place>();

  constructor(readonly task: SampleTask) {
    this.#single = { draws: task.clusters, sums: task.sums };
    if (task.clusters === task.draws.length) return;
    for (const { cluster } of task.draws) {
      const draws = task.draws.filter((draw) => draw.cluster === cluster).length;
      if (draws === 1 || this.#clusters.has(cluster)) continue;
      this.#clusters.set(cluster, { draws, sums: this.#empty() });
    }
  }

  #empty(): SampleTask['sums'] {
    return makeErrorSums(
      Object.entries(this.task.sums).map(([name, { error }]) => [name, error.length]),
    );
  }

  #place({ cluster }: Draw): Place {
    return this.#clusters.get(cluster) ?? this.#single;
  }

  /** Draws of one batch item, all of them. */
  add(
    draws: readonly Draw[],
    name: string,
    exact: RankOnes,
    used: RankOnes,
    passes: InputPasses,
  ): void {
    const places = draws.map((draw) => this.#place(draw));
    for (const place of new Set(places)) {
      const rows = draws.flatMap((_, k) => (places[k] === place ? [k] : []));
      addDraws(place.sums[name]!, rows, draws, exact, used, place.draws, passes);
    }
  }

  addDifference(draw: Draw, name: string, difference: Float64Array, offset: number): void {
    const { sums, draws } = this.#place(draw);
    addDifference(sums[name]!, difference, offset, draw, draws);
  }

  close(): void {
    for (const { sums } of this.#clusters.values()) {
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
  const kernel = kernelRows(task, wasm, draws, checkpoint);
  wasm.reset();
  const passes = new InputPasses(wasm, checkpoint);
  const rows = draws.map(({ partition, row }): RowOfHead => {
    const { head, headGroup } = partition;
    return { batchItem, head, shared: headGroup.sharedHead, row };
  });
  const exact = exactRows(problem, rows, passes);
  const full = fullRows(task.plan, exact, kernel, passes);
  const used = full ? contributionsOf(problem, full, passes) : new Map();
  addThin(used, task, draws, exact, kernel, passes);
  for (const [name, contributions] of contributionsOf(problem, exact, passes)) {
    books.add(draws, name, contributions, used.get(name)!, passes);
  }
  if (!full) return [];
  if (problem.rotary && problem.projections.k_proj.adapter) {
    sampleRotatedKeys(problem, draws, exact, full, books, passes);
  }
  // Only gradients of the inputs take the values at full width.
  if (!task.plan.full.dV) return [];
  return stateSizes(problem, exact, full, passes).map(({ query, key, value }, k) => {
    const { cluster, probability } = draws[k]!;
    const over = 1 / probability;
    return { cluster, query: over * query, key: over * key, value: over * value };
  });
}

/** The adapter of the keys under rotary positions: differences between the rows, head by head. */
function sampleRotatedKeys(
  problem: AttentionProblem,
  draws: readonly Draw[],
  exact: AttendedRows,
  full: AttendedRows,
  books: Books,
  passes: InputPasses,
): void {
  const { batchItem } = exact.rows[0]!;
  const { keys: n, XK } = keyInputs(problem, batchItem);
  const d = problem.dims.headDim;
  const rotated = problem as AttentionProblem & { readonly rotary: Rotary };
  const rowOf = ({ q, dS }: AttendedRows, k: number) => ({
    q: slice(q, k, d),
    dS: slice(dS, k, n),
  });
  for (const shared of new Set(exact.rows.map((row) => row.shared))) {
    const keys = new RotatedKeyRows(rotated, batchItem, shared, XK, passes);
    draws.forEach((draw, k) => {
      if (exact.rows[k]!.shared !== shared) return;
      const { A, B } = keys.of(rowOf(exact, k), rowOf(full, k));
      books.addDifference(draw, 'k_proj.lora_A', A, 0);
      books.addDifference(draw, 'k_proj.lora_B', B, keys.offset);
    });
  }
}

/** Rank-one matrices of the adapters that take the thin path, as the kernel has them. */
function addThin(
  used: Contributions,
  { plan, workspace }: SampleTask,
  draws: readonly Draw[],
  { rows, x }: AttendedRows,
  { P, dS, q, g, ws, wv, rights, rightv, sink }: KernelRows,
  passes: InputPasses,
): void {
  const { dims, projections, scaling: beta, sinks } = plan.problem;
  const { headDim: d, valueDim: dv } = dims;
  const { rq, rk, rv, ps, pv } = plan.thin;
  const { keys, XK, XV } = keyInputs(plan.problem, rows[0]!.batchItem);
  const whole = rows.map(() => 0);
  const part = (name: 'head' | 'shared', size: number) => rows.map((row) => row[name] * size);
  const columns = (X: Float64Array, pitch: number, first: number, n: number, scale: number) => {
    const taken = new Float64Array(rows.length * n);
    for (let i = 0; i < rows.length; i++) {
      for (let c = 0; c < n; c++) taken[i * n + c] = scale * X[i * pitch + first + c]!;
    }
    return taken;
  };
  if (sinks) used.set('sinks', ofSinks(sink, part('head', 1)));
  if (rq) {
    const scale = beta * projections.q_proj.adapter!.scaling;
    const u = columns(rights, rq + rk, 0, rq, scale);
    used.set('q_proj.lora_A', { u, v: x, offsets: whole });
    const dSK = keySums(plan, workspace, draws, dS, passes);
    const v = columns(ws, ps, rk, rq, scale);
    used.set('q_proj.lora_B', { u: dSK, v, offsets: part('head', d * rq) });
  }
  if (rk) {
    const scale = beta * projections.k_proj.adapter!.scaling;
    const u = columns(ws, ps, 0, rk, scale);
    used.set('k_proj.lora_A', { u, v: passes.combine(XK, keys, dS), offsets: whole });
    const v = columns(rights, rq + rk, rq, rk, scale);
    used.set('k_proj.lora_B', { u: q, v, offsets: part('shared', d * rk) });
  }
  if (rv) {
    const scale = projections.v_proj.adapter!.scaling;
    const u = columns(wv, pv, 0, rv, scale);
    used.set('v_proj.lora_A', { u, v: passes.combine(XV, keys, P), offsets: whole });
    used.set('v_proj.lora_B', {
      u: g,
      v: scaled(rightv, scale),
      offsets: part('shared', dv * rv),
    });
  }
}

/** dS K of each draw (m, d), with one pass over the keys of each head group. */
function keySums(
  plan: ExactPlan,
  workspace: Workspace,
  draws: readonly Draw[],
  dS: Float64Array,
  passes: InputPasses,
): Float64Array {
  const d = plan.problem.dims.headDim;
  const n = dS.length / draws.length;
  const sums = new Float64Array(draws.length * d);
  const headGroups = draws.map(({ partition }) => Math.floor(partition.place / plan.group));
  for (const headGroup of new Set(headGroups)) {
    const mine = draws.flatMap((_, k) => (headGroups[k] === headGroup ? [k] : []));
    const K = slice(workspace.K, headGroup, plan.keys * d).subarray(0, n * d);
    const found = passes.combine(K, n, pick(dS, mine, n));
    for (const [i, k] of mine.entries()) sums.set(slice(found, i, d), k * d);
  }
  return sums;
}

/**
 * Rows at full width: P and dS of the kernel, and its Q, G and dS K, for the formulas of float64; null: nothing is taken at
 * full width. For adapters on the thin path there is something better: what the kernel itself has for them.
 */
function fullRows(
  { problem, full }: ExactPlan,
  { rows, query, key, value, x }: AttendedRows,
  { P, dS, q, g, rights, sink }: KernelRows,
  passes: InputPasses,
): AttendedRows | null {
  if (!full.dQ && !full.dK && !full.dV) return null;
  const { keys, XK, XV } = keyInputs(problem, rows[0]!.batchItem);
  const PX = passes.combine(XV, keys, P);
  const dSX = problem.rotary ? undefined : passes.combine(XK, keys, dS);
  return { rows, query, key, value, x, q, g, P, dS, dSK: rights, PX, dSX, sink };
}
