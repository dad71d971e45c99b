/**
 * The attention stage: a few row blocks of some lanes, softmax and backward, in one pass over the keys.
 *
 *     E = exp(S) or exp(S - max),  P = E / sum,  dS = P (dP - G.O),  dP = G V^T,  G = O - Y or given
 *     right:  dS [K B_Q | X^K A_K^T],      P X^V A_V^T
 *     left:   dS^T [Q B_K | X^Q A_Q^T],    P^T G B_V
 *     at full width:  dS K,  dS^T Q,  P^T G
 *     forward only:   O = P V
 *
 * The division by the row sum is folded into the thin factors. Products that belong to rows alone,
 * Q^T (dS X^K A_K^T) and G^T (P X^V A_V^T), are contracted here; the others wait for all rows.
 */
import { keysOf } from '../../../src/lora/problem.js';
import { KEYS, ROWS, writeBlock } from '../wasm/block.js';
import type { Wasm } from '../wasm/instance.js';
import { type AttentionMemory, prepareMemory } from './memory.js';
import { slice } from './operands.js';
import type { ExactPlan, Unit, Workspace } from './plan.js';
import { RightSums } from './right.js';
import { divideBySums, loadRows, loadUpstream, takeOutput } from './rows.js';

/** Tiles between two looks at the flag that cancels: about a millisecond a pass. */
export const TILES_AT_ONCE = 32;

export interface AttendTask {
  readonly kernel: 'exact';
  readonly step: 'attend';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  /** (B, Lq, H dv) or null */
  readonly attentionOutput: Float32Array | null;
  readonly wave: number;
  /** Lanes, each with its query head: place in the wave, and who that is. */
  readonly lanes: readonly LaneOfHead[];
  /** Turns [first, last) of each lane: turn k of lane l is row block l + k lanes. */
  readonly first: number;
  readonly last: number;
}

export interface LaneOfHead {
  readonly place: number;
  readonly unit: Unit;
  readonly head: number;
  readonly lane: number;
}

/** Rows of a lane's query head: `first` and the n - 1 after it, or those that `picked` lists. */
export interface RowBlock {
  readonly lane: LaneOfHead;
  readonly first: number;
  readonly n: number;
  readonly picked?: readonly number[];
}

/** Number of row i of the block in its sequence. */
export const rowAt = ({ first, picked }: RowBlock, i: number): number =>
  picked ? picked[i]! : first + i;

/** @returns the loss of these rows, 1/2 ||O - Y||^2, or 0. */
export function runAttend(task: AttendTask, wasm: Wasm, checkpoint: () => void): number {
  const { plan } = task;
  let loss = 0;
  for (const lane of task.lanes) {
    const memory = prepareMemory(task, wasm, lane, checkpoint);
    takeSums(task, wasm, memory, lane);
    for (let turn = task.first; turn < task.last; turn++) {
      const block = lane.lane + turn * plan.lanes;
      if (block >= plan.blocks) break;
      loss += attendBlock(task, wasm, memory, lane, block, checkpoint);
    }
    giveSums(task, wasm, memory, lane);
  }
  return loss;
}

function attendBlock(
  task: AttendTask,
  wasm: Wasm,
  memory: AttentionMemory,
  lane: LaneOfHead,
  index: number,
  checkpoint: () => void,
): number {
  const first = index * ROWS;
  const n = Math.min(ROWS, task.plan.problem.dims.queryLength - first);
  const rows: RowBlock = { lane, first, n };
  const { loss, right } = attendRows(task, wasm, memory, rows, checkpoint);
  right.contract(task, wasm, memory, rows);
  return loss;
}

/** All passes over the keys for one block of rows; E and dS of the block stay behind in memory. */
export function attendRows(
  task: AttendTask,
  wasm: Wasm,
  memory: AttentionMemory,
  rows: RowBlock,
  checkpoint: () => void,
): { readonly loss: number; readonly right: RightSums } {
  const { plan } = task;
  const { causal } = plan.problem;
  const { first, n } = rows;
  const visible = keysOf(plan.problem, rows.lane.unit.batchItem);
  const keys = causal ? Math.min(visible, first + n) : visible;
  const tiles = Math.ceil(keys / KEYS);
  const pass = (run: typeof wasm.fn.scores, after?: () => void) => {
    for (let t = 0; t < tiles; t += TILES_AT_ONCE) {
      checkpoint();
      run(memory.block, t, Math.min(t + TILES_AT_ONCE, tiles));
      after?.();
    }
  };

  loadRows(task, wasm, memory, rows);
  const { fields } = memory;
  const { ps, pv } = plan.thin;
  // G as given is there from the start: then dP of a tile is made while its weights are in cache.
  const given = plan.problem.objective?.kind === 'grad_output';
  if (given) loadUpstream(task, wasm, memory, rows);
  // Where a row may have a single key its weight is to be 1, so that dS is exactly 0.
  const bounded = fields.bounded && (causal ? first >= ROWS : keys > 1);
  const block = {
    ...{ ...fields, rows: Math.ceil(n / 16) * 16, firstRow: first },
    ...{ keys, causal: Number(causal), bounded: Number(bounded) },
  };
  writeBlock(wasm, memory.block, { ...block, g: given && ps ? fields.g : 0 });
  if (!bounded) pass(wasm.fn.scores);
  pass(wasm.fn.weights);
  const loss = fields.o ? takeOutput(task, wasm, memory, rows) : 0;
  if (ps && !given) {
    writeBlock(wasm, memory.block, block);
    pass(wasm.fn.values);
  }
  const right = new RightSums(plan, wasm, memory);
  if (ps + pv) {
    divideBySums(task, wasm, memory, rows);
    pass(wasm.fn.gradients, () => right.flush());
  }
  return { loss, right };
}

/** Fetches the lane's partial sums of left products; the first task of a wave begins with zeros. */
function takeSums(task: AttendTask, wasm: Wasm, memory: AttentionMemory, lane: LaneOfHead): void {
  const { plan, workspace } = task;
  const { ls, pv } = plan.thin;
  const number = lane.place * plan.lanes + lane.lane;
  for (const [at, store, width] of [
    [memory.fields.ls, workspace.ls, ls],
    [memory.fields.lv, workspace.lv, pv],
  ] as const) {
    const sums = wasm.f32(at, plan.keys * width);
    if (task.first === 0) sums.fill(0);
    else sums.set(slice(store, number, plan.keys * width));
  }
  if (task.first === 0) {
    slice(workspace.outK, number, plan.problem.dims.headDim * plan.thin.rk).fill(0);
    slice(workspace.outV, number, plan.problem.dims.valueDim * plan.thin.rv).fill(0);
  }
}

function giveSums(task: AttendTask, wasm: Wasm, memory: AttentionMemory, lane: LaneOfHead): void {
  const { plan, workspace } = task;
  const { ls, pv } = plan.thin;
  const number = lane.place * plan.lanes + lane.lane;
  slice(workspace.ls, number, plan.keys * ls).set(wasm.f32(memory.fields.ls, plan.keys * ls));
  slice(workspace.lv, number, plan.keys * pv).set(wasm.f32(memory.fields.lv, plan.keys * pv));
}
