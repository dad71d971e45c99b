/**
 * The rounding error of the exact kernel: sampled rows once more through the kernel, and in float64.
 *
 * The kernel's contribution of a row is what it put into the sums: thin factors and weights E, dS in
 * float32, bit by bit as before. Their products with the inputs are made in float64 here, so that what
 * remains between the two contributions is rounding in projections, scores, softmax and backward.
 * Rounding while adding up thousands of rows is not seen this way: `summationError` (estimate.ts) allows for it.
 */
import { addDraw, type ErrorSums, type RankOne } from '../sampling/estimate.js';
import { exactContributions, type RowOfHead } from '../sampling/exact-rows.js';
import { InputPasses } from '../sampling/input-passes.js';
import { ROWS } from '../wasm/block.js';
import type { Wasm } from '../wasm/instance.js';
import { type AttendTask, attendRows, type LaneOfHead } from './attend.js';
import { prepareMemory } from './memory.js';
import { slice } from './operands.js';
import type { ExactPlan, Workspace } from './plan.js';

export interface SampleTask {
  readonly kernel: 'exact';
  readonly step: 'sample';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly wave: number;
  readonly draws: readonly Draw[];
  /** Of all tasks of the wave. */
  readonly drawsOfWave: number;
  /** By tensor name; this task adds to them, and no other at the same time. */
  readonly sums: Readonly<Record<string, ErrorSums>>;
}

export interface Draw {
  readonly lane: LaneOfHead;
  readonly row: number;
  readonly probability: number;
}

/** What the kernel used for one row. */
interface KernelRow {
  /** E and E (dP - G.O), over all keys. */
  readonly e: Float64Array;
  readonly t: Float64Array;
  /** Q, G, and the left factors ws, wv of the row. */
  readonly q: Float64Array;
  readonly g: Float64Array;
  readonly ws: Float64Array;
  readonly wv: Float64Array;
  /** dS [K B_Q | X^K A_K^T] and P X^V A_V^T. */
  readonly rights: Float64Array;
  readonly rightv: Float64Array;
}

export function runSample(task: SampleTask, wasm: Wasm, checkpoint: () => void): null {
  for (const batchItem of new Set(task.draws.map(({ lane }) => lane.unit.batchItem))) {
    const draws = task.draws.filter(({ lane }) => lane.unit.batchItem === batchItem);
    sampleBatchItem(task, draws, batchItem, wasm, checkpoint);
  }
  return null;
}

function sampleBatchItem(
  task: SampleTask,
  draws: readonly Draw[],
  batchItem: number,
  wasm: Wasm,
  checkpoint: () => void,
): void {
  const { problem } = task.plan;
  const { q_proj, k_proj, v_proj } = problem.projections;
  const kernel = blocksOf(task, draws).flatMap((block) =>
    kernelRows(task, wasm, block, checkpoint),
  );
  wasm.reset();
  const passes = new InputPasses(
    wasm,
    Math.max(q_proj.inFeatures, k_proj.inFeatures, v_proj.inFeatures, problem.dims.headDim),
    checkpoint,
  );
  const rows = draws.map(({ lane, row }): RowOfHead => ({ batchItem, head: lane.head, row }));
  const exact = exactContributions(problem, rows, passes);
  const used = kernelContributions(task, draws, kernel, passes);
  draws.forEach(({ probability }, k) => {
    for (const [name, contribution] of exact[k]!) {
      addDraw(task.sums[name]!, contribution, used[k]!.get(name)!, probability, task.drawsOfWave);
    }
  });
}

/** Rows that the kernel can take together, in order: of one head; with a causal mask one by one. */
function blocksOf({ plan }: SampleTask, draws: readonly Draw[]): Draw[][] {
  const blocks: Draw[][] = [];
  for (const draw of draws) {
    const open = blocks.at(-1);
    const fits = open && open[0]!.lane.place === draw.lane.place && open.length < ROWS;
    if (fits && !plan.problem.causal) open.push(draw);
    else blocks.push([draw]);
  }
  return blocks;
}

/** Runs the kernel on a block of rows from anywhere: rows of a block do not touch each other. */
function kernelRows(
  { plan, workspace, wave }: SampleTask,
  wasm: Wasm,
  draws: readonly Draw[],
  checkpoint: () => void,
): KernelRow[] {
  const { lane } = draws[0]!;
  const what = { plan, workspace, wave, attentionOutput: null, lanes: [lane], first: 0, last: 0 };
  const task: AttendTask = { kernel: 'exact', step: 'attend', ...what };
  const memory = prepareMemory(task, wasm, lane, checkpoint);
  const { headDim: d, valueDim: dv, keyLength } = plan.problem.dims;
  const { rq, rk, rv, ps, pv } = plan.thin;
  const { causal } = plan.problem;
  const picked = draws.map(({ row }) => row);
  const first = picked[0]!;
  const rows = { lane, first, n: draws.length, picked };
  const { right } = attendRows(task, wasm, memory, rows, checkpoint);
  const { fields } = memory;
  const list = (n: number, value: (c: number) => number) =>
    Float64Array.from({ length: n }, (_, c) => value(c));
  return draws.map(({ row }, i) => {
    checkpoint();
    const visible = causal ? Math.min(row + 1, keyLength) : keyLength;
    const column = (tiles: number) => {
      const all = wasm.f32(tiles, visible * ROWS);
      const out = new Float64Array(keyLength);
      for (let j = 0; j < visible; j++) out[j] = all[j * ROWS + i]!;
      return out;
    };
    const rowOf = (at: number, width: number) =>
      Float64Array.from(wasm.f32(at + 4 * i * width, width));
    return {
      e: column(fields.e),
      t: ps ? column(fields.t) : new Float64Array(0),
      q: rowOf(memory.qRows, d),
      g: rowOf(memory.gRows, dv),
      ws: rowOf(fields.ws, ps),
      wv: rowOf(fields.wv, pv),
      rights: list(rq + rk, (c) => right.ofScores(i, c)),
      rightv: list(rv, (c) => right.ofValues(i, c)),
    };
  });
}

/** The same list of rank-one matrices as exactContributions gives, as the kernel has them. */
function kernelContributions(
  { plan, workspace }: SampleTask,
  draws: readonly Draw[],
  kernel: readonly KernelRow[],
  passes: InputPasses,
): Map<string, RankOne>[] {
  const { dims, inputs, projections, scaling: beta } = plan.problem;
  const { queryLength, keyLength, headDim: d, valueDim: dv } = dims;
  const { rq, rk, rv } = plan.thin;
  const { batchItem } = draws[0]!.lane.unit;
  const inputRows = (x: Float32Array | Float64Array, columns: number) =>
    slice(x, batchItem, keyLength * columns);
  const tX = rk
    ? passes.combine(
        inputRows(inputs.key.data, projections.k_proj.inFeatures),
        keyLength,
        kernel.map(({ t }) => t),
      )
    : [];
  const eX = rv
    ? passes.combine(
        inputRows(inputs.value.data, projections.v_proj.inFeatures),
        keyLength,
        kernel.map(({ e }) => e),
      )
    : [];

  return draws.map(({ lane, row }, k) => {
    const { ws, wv, q, g, t, rights, rightv } = kernel[k]!;
    const out = new Map<string, RankOne>();
    if (rq) {
      const width = projections.q_proj.inFeatures;
      const x = slice(inputs.query.data, batchItem * queryLength + row, width);
      const unit = Math.floor(lane.place / plan.group);
      const K = slice(workspace.K, unit, plan.keys * d).subarray(0, keyLength * d);
      const tK = passes.combine(K, keyLength, [t])[0]!;
      const scale = beta * projections.q_proj.adapter!.scaling;
      const u = rights.subarray(0, rq).map((y) => scale * y);
      out.set('q_proj.lora_A', { u, v: Float64Array.from(x), offset: 0 });
      const lows = ws.subarray(rk, rk + rq).map((y) => scale * y);
      out.set('q_proj.lora_B', { u: tK, v: lows, offset: lane.head * d * rq });
    }
    if (rk) {
      const scale = beta * projections.k_proj.adapter!.scaling;
      const u = ws.subarray(0, rk).map((y) => scale * y);
      out.set('k_proj.lora_A', { u, v: tX[k]!, offset: 0 });
      const low = rights.subarray(rq).map((y) => scale * y);
      out.set('k_proj.lora_B', { u: q, v: low, offset: lane.unit.sharedHead * d * rk });
    }
    if (rv) {
      const scale = projections.v_proj.adapter!.scaling;
      const u = wv.subarray(0, rv).map((y) => scale * y);
      out.set('v_proj.lora_A', { u, v: eX[k]!, offset: 0 });
      const low = rightv.map((y) => scale * y);
      out.set('v_proj.lora_B', { u: g, v: low, offset: lane.unit.sharedHead * dv * rv });
    }
    return out;
  });
}
