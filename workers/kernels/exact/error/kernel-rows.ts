/** Single rows once more through the kernel: what it used for them, bit by bit as before. */
import type { Checkpoint } from '../../../job.js';
import { keysOfRow, seesAll } from '../../../mask.js';
import { attendRows } from '../../attention/attend.js';
import { attendInOneCall } from '../../attention/in-one-call.js';
import { type KeyWindow, prepareMemory } from '../../attention/memory.js';
import { RightSums } from '../../attention/right.js';
import { inverse, sinkGradients } from '../../attention/rows.js';
import type { AttendTask, PartitionOfHead } from '../../attention/task.js';
import { keyInputs } from '../../estimate/row-of-head.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';

/** A row that is looked at twice. */
export interface Draw {
  readonly partition: PartitionOfHead;
  readonly row: number;
  readonly probability: number;
  /** Draws of one cluster depend on each other, and are all in one task. */
  readonly cluster: number;
}

/** What the kernel used for one row. */
export interface KernelRow {
  /** 1 over the row sum of E; 0: the row sees no key. */
  readonly inverse: number;
  /** What the row adds to the gradient of its head's sink. */
  readonly sink: number;
  /** E and E (dP - G.O), over all keys. */
  readonly e: Float64Array;
  readonly t: Float64Array;
  /** Q, G, and the left factors ws, wv of the row. */
  readonly q: Float64Array;
  readonly g: Float64Array;
  readonly ws: Float64Array;
  readonly wv: Float64Array;
  /** dS [K B_Q | X^K A_K^T] or dS K, and P X^V A_V^T. */
  readonly rights: Float64Array;
  readonly rightv: Float64Array;
}

/** Rows that the kernel can take together, in order: of one head; with a mask one by one. */
export function blocksOf({ plan }: Pick<AttendTask, 'plan'>, draws: readonly Draw[]): Draw[][] {
  const blocks: Draw[][] = [];
  for (const draw of draws) {
    const open = blocks.at(-1);
    const fits = open && open[0]!.partition.place === draw.partition.place && open.length < ROWS;
    if (fits && seesAll(plan.problem)) open.push(draw);
    else blocks.push([draw]);
  }
  return blocks;
}

/** Runs the kernel on a block of rows from anywhere: rows of a block do not touch each other. */
export function kernelRows(
  { plan, workspace, wave }: Pick<AttendTask, 'plan' | 'workspace' | 'wave'>,
  wasm: Wasm,
  draws: readonly Draw[],
  checkpoint: Checkpoint,
): KernelRow[] {
  const { partition } = draws[0]!;
  const what = {
    plan,
    workspace,
    wave,
    attentionOutput: null,
    partitions: [partition],
    first: 0,
    last: 0,
  };
  const task: AttendTask = { kernel: 'exact', step: 'attend', ...what };
  const memory = prepareMemory(task, wasm, partition, checkpoint);
  const { headDim: d, valueDim: dv } = plan.problem.dims;
  const { rq, rk, rv, ps, pv, right: kept } = plan.thin;
  const { batchItem } = partition.headGroup;
  const { keys } = keyInputs(plan.problem, batchItem);
  const picked = draws.map(({ row }) => row);
  const first = picked[0]!;
  const rows = { partition, first, n: draws.length, picked };
  const { fields } = memory;
  const matrix = (columns: number) => new Float64Array(draws.length * columns);
  const [e, t] = [matrix(keys), matrix(ps ? keys : 0)];
  const seen = picked.map((row) => keysOfRow(plan.problem, batchItem, row));
  const copy = ({ first, count }: KeyWindow, tiles: number, to: Float64Array) => {
    const all = wasm.f32(tiles, count * ROWS);
    seen.forEach((range, i) => {
      checkpoint();
      const last = Math.min(range.last, first + count);
      for (let j = Math.max(first, range.first); j < last; j++)
        to[i * keys + j] = all[(j - first) * ROWS + i]!;
    });
  };
  if (wasm.fn.attend) {
    const range = { first: 0, last: 1, step: 1 };
    attendInOneCall(task, wasm, memory, partition, range, { picked, e, t }, checkpoint);
  } else {
    attendRows(task, wasm, memory, rows, checkpoint, {
      end: (window) => {
        copy(window, fields.e, e);
        if (ps) copy(window, fields.t, t);
      },
    });
  }
  const right = new RightSums(plan, wasm, memory);
  const list = (n: number, value: (c: number) => number) =>
    Float64Array.from({ length: n }, (_, c) => value(c));
  const sinks = sinkGradients(task, wasm, memory, rows);
  return draws.map((_, i) => {
    const rowOf = (at: number, width: number) =>
      Float64Array.from(wasm.f32(at + 4 * i * width, width));
    return {
      inverse: inverse(wasm.f64(fields.sum, ROWS)[i]!),
      sink: sinks[i]!,
      e: slice(e, i, keys),
      t: slice(t, i, ps ? keys : 0),
      q: rowOf(memory.qRows, d),
      g: rowOf(memory.gRows, dv),
      ws: rowOf(fields.ws, ps),
      wv: rowOf(fields.wv, pv),
      rights: list(Math.max(rq + rk, kept), (c) => right.ofScores(i, c)),
      rightv: list(rv, (c) => right.ofValues(i, c)),
    };
  });
}
