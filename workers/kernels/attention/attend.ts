/**
 * The attention stage: a few row blocks of some partitions, softmax and backward, in one pass over the keys.
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
import type { Checkpoint } from '../../job.js';
import { keysOfRows } from '../../mask.js';
import type { Contradiction } from '../../problem.js';
import { type Block, KEYS, ROWS, writeBlock } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { type Floats, slice } from '../inner/operands.js';
import { attendInOneCall, hasRowOfOneKey } from './in-one-call.js';
import { type AttentionMemory, type KeyWindow, loadWindow, prepareMemory } from './memory.js';
import { type ExactPlan, TILES_AT_ONCE } from './plan.js';
import { LARGEST_NORM, RightSums } from './right.js';
import {
  addSinks,
  divideBySums,
  findContradiction,
  loadRows,
  loadUpstream,
  sinkGradients,
  takeOutput,
} from './rows.js';
import type { PartitionOfHead, Partitions, RowBlock } from './task.js';

export interface AttendReport {
  /** 1/2 ||O - Y||^2 of these rows; 0 without a target. */
  readonly loss: number;
  /** The first row whose known log_sum_exp or output is not that of these inputs; null: none. */
  readonly contradiction: Contradiction | null;
}

export function runAttend(task: Partitions, wasm: Wasm, checkpoint: Checkpoint): AttendReport {
  let loss = 0;
  let contradiction: Contradiction | null = null;
  for (const partition of task.partitions) {
    const memory = prepareMemory(task, wasm, partition, checkpoint);
    if (task.first === 0) clearSums(task, partition);
    const attend = wasm.fn.attend ? attendPartition : attendByPasses;
    const report = attend(task, wasm, memory, partition, checkpoint);
    loss += report.loss;
    contradiction ??= report.contradiction;
  }
  return { loss, contradiction };
}

/** Where the build has the whole stage. */
function attendPartition(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  partition: PartitionOfHead,
  checkpoint: Checkpoint,
): AttendReport {
  const { partitions, blocks } = task.plan;
  const last = Math.min(blocks, partition.partition + task.last * partitions);
  const range = { first: partition.partition + task.first * partitions, last, step: partitions };
  return attendInOneCall(task, wasm, memory, partition, range, null, checkpoint);
}

/** Left products of a partition go where a window of keys is, and back. */
export function sumsOfPartition(
  task: Partitions,
  wasm: Wasm,
  { fields }: AttentionMemory,
  partition: PartitionOfHead,
): Required<WindowVisitor> {
  const each = ({ first, count }: KeyWindow, move: (inMemory: Floats, kept: Floats) => void) => {
    for (const { field, width, kept } of leftSums(task, partition)) {
      const rows = kept.subarray(first * width, (first + count) * width);
      move(wasm.f32(fields[field], rows.length), rows);
    }
  };
  return {
    begin: (window) => each(window, (inMemory, kept) => inMemory.set(kept)),
    end: (window) => each(window, (inMemory, kept) => kept.set(inMemory)),
  };
}

/** Where it has not: its passes one by one, on copies of the keys. */
function attendByPasses(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  partition: PartitionOfHead,
  checkpoint: Checkpoint,
): AttendReport {
  const { plan } = task;
  const { windows } = memory;
  let loss = 0;
  let contradiction: Contradiction | null = null;
  const sums = sumsOfPartition(task, wasm, memory, partition);
  // With a single window they may stay from block to block.
  const stay = windows.length === 1;
  if (stay) sums.begin(windows[0]!);
  for (let index = task.first; index < task.last; index++) {
    const block = partition.partition + index * plan.partitions;
    if (block >= plan.blocks) break;
    const rows = rowsOf(plan, partition, block);
    const report = attendBlock(task, wasm, memory, rows, checkpoint, stay ? {} : sums);
    loss += report.loss;
    contradiction ??= report.contradiction;
  }
  if (stay) sums.end(windows[0]!);
  return { loss, contradiction };
}

/** The rows of a block of a partition's head. */
export const rowsOf = (
  { problem }: ExactPlan,
  partition: PartitionOfHead,
  block: number,
): RowBlock => {
  const first = block * ROWS;
  return { partition, first, n: Math.min(ROWS, problem.dims.queryLength - first) };
};

export function attendBlock(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  rows: RowBlock,
  checkpoint: () => void,
  visitor: WindowVisitor,
): AttendReport {
  const { partition } = rows;
  const { loss, right, contradiction } = attendRows(task, wasm, memory, rows, checkpoint, visitor);
  right.contract(task, memory, rows);
  const number = partition.place * task.plan.partitions + partition.partition;
  const ofRows = slice(
    task.workspace.normSink,
    partition.place,
    task.plan.problem.dims.queryLength,
  );
  sinkGradients(task, wasm, memory, rows).forEach((x, i) => {
    task.workspace.sinks[number]! += x;
    ofRows[rows.first + i] = Math.min(Math.abs(x), LARGEST_NORM);
  });
  return { loss, contradiction };
}

/** Looks into memory while a window of keys is there, before and after its gradients are formed. */
interface WindowVisitor {
  readonly begin?: (window: KeyWindow) => void;
  /** E and dS of the block and the window lie in memory. */
  readonly end?: (window: KeyWindow) => void;
}

/** All passes over the keys for one block of rows. */
export function attendRows(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  rows: RowBlock,
  checkpoint: () => void,
  visitor: WindowVisitor,
): {
  readonly loss: number;
  readonly right: RightSums;
  readonly contradiction: Contradiction | null;
} {
  const { plan } = task;
  const { first, n } = rows;
  const { fields, windows } = memory;
  const { ps, pv } = plan.thin;
  const { fn } = wasm;
  const { batchItem } = rows.partition.headGroup;
  const seen =
    rows.listed === undefined
      ? keysOfRows(plan.problem, batchItem, { first, last: first + n })
      : { first: 0, last: rows.listed };
  // Where a row has a single key its weight is to be 1, so that dS is exactly 0.
  const fused = !hasRowOfOneKey(plan.problem, batchItem, first);
  const known = plan.problem.known?.logSumExp ? 2 : 0;
  const bounded = fused ? fields.bounded || known : 0;
  const block = {
    ...{ ...fields, rows: Math.ceil(n / 16) * 16, firstRow: first },
    ...{ keys: seen.last, bounded },
  };
  const pass = (
    change: Partial<Block>,
    run: (block: number, t0: number, t1: number) => void,
    { begin, end }: WindowVisitor = {},
  ) => {
    for (const window of windows) {
      const firstKey = Math.max(seen.first, window.first);
      const lastKey = Math.min(seen.last, window.first + window.count);
      if (firstKey >= lastKey) continue;
      if (windows.length > 1) loadWindow(task, wasm, memory, rows.partition, window, checkpoint);
      writeBlock(wasm, memory.block, { ...block, ...change, origin: window.first / KEYS });
      begin?.(window);
      const last = Math.ceil(lastKey / KEYS);
      for (let t = Math.floor(firstKey / KEYS); t < last; ) {
        // Stretches begin where they would without a mask: sums of a row do not depend on its block.
        const next = Math.min(last, (Math.floor(t / TILES_AT_ONCE) + 1) * TILES_AT_ONCE);
        checkpoint();
        run(memory.block, t, next);
        t = next;
      }
      end?.(window);
    }
  };

  loadRows(task, wasm, memory, rows, bounded === 2);
  // Where G is there from the start, dP of a tile is made while its weights are in cache.
  const given = loadUpstream(task, wasm, memory, rows);
  const scores: typeof fn.scores = bounded ? () => {} : fn.scores;
  // A window that was left has to be made again: E, with G there dP too.
  const again: typeof fn.scores = (...range) => {
    if (windows.length === 1) return;
    scores(...range);
    fn.weights(...range);
  };
  const g = fields.t ? fields.g : 0;

  if (!bounded) pass({}, fn.scores);
  addSinks(task, wasm, memory, rows, bounded === 1);
  pass({ g: given.loaded ? g : 0 }, (...range) => {
    if (windows.length > 1) scores(...range);
    fn.weights(...range);
  });
  const sums = wasm.f64(fields.sum, ROWS).slice();
  const loss = fields.o ? takeOutput(task, wasm, memory, rows) : given.loss;
  if (g && !given.loaded) pass({ g, o: 0 }, windows.length > 1 ? again : fn.values);
  wasm.f64(fields.sum, ROWS).set(sums);
  const right = new RightSums(plan, wasm, memory);
  right.clear();
  if (g || pv) divideBySums(task, wasm, memory, rows);
  if (ps + pv) {
    const gradients: typeof fn.gradients = (...range) => {
      again(...range);
      fn.gradients(...range);
      right.flush();
    };
    pass({ g, o: 0 }, gradients, visitor);
    wasm.f64(fields.sum, ROWS).set(sums);
  }
  const contradiction =
    rows.listed === undefined ? findContradiction(task, wasm, memory, rows, bounded === 1) : null;
  return { loss, right, contradiction };
}

/** The partition's partial sums of left products, (keys, width): where they are in memory and in the workspace. */
function leftSums({ plan, workspace }: Partitions, partition: PartitionOfHead) {
  const { ls, pv } = plan.thin;
  const number = partition.place * plan.partitions + partition.partition;
  return [
    { field: 'ls', width: ls, kept: slice(workspace.ls, number, plan.keys * ls) },
    { field: 'lv', width: pv, kept: slice(workspace.lv, number, plan.keys * pv) },
  ] as const;
}

/** The first task of a wave begins with zeros. */
export function clearSums(task: Partitions, partition: PartitionOfHead): void {
  const { plan, workspace } = task;
  const number = partition.place * plan.partitions + partition.partition;
  for (const { kept } of leftSums(task, partition)) kept.fill(0);
  slice(workspace.outK, number, plan.problem.dims.headDim * plan.thin.rk).fill(0);
  slice(workspace.outV, number, plan.problem.dims.valueDim * plan.thin.rv).fill(0);
  workspace.sinks[number] = 0;
}
