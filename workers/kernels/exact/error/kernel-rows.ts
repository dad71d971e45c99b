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

/** A row that is looked at twice. */
export interface Draw {
  readonly partition: PartitionOfHead;
  readonly row: number;
  readonly probability: number;
  /** Draws of one cluster depend on each other, and are all in one task. */
  readonly cluster: number;
}

/** What the kernel used for m rows, one after the other in each matrix. */
export interface KernelRows {
  /** What each row adds to the gradient of its head's sink. */
  readonly sink: Float64Array;
  /** P and dS (m, keys); dS is empty where no adapter needs it. */
  readonly P: Float64Array;
  readonly dS: Float64Array;
  /** Q (m, d), G (m, dv), and the left factors (m, ps), (m, pv) of the rows; those of a row that sees no key are 0. */
  readonly q: Float64Array;
  readonly g: Float64Array;
  readonly ws: Float64Array;
  readonly wv: Float64Array;
  /** dS [K B_Q | X^K A_K^T] or dS K, and P X^V A_V^T. */
  readonly rights: Float64Array;
  readonly rightv: Float64Array;
}

/** Rows of one batch item. */
export function kernelRows(
  task: Pick<AttendTask, 'plan' | 'workspace' | 'wave'>,
  wasm: Wasm,
  draws: readonly Draw[],
  checkpoint: Checkpoint,
): KernelRows {
  const { problem, thin } = task.plan;
  const { headDim: d, valueDim: dv } = problem.dims;
  const { rq, rk, rv, ps, pv, right } = thin;
  const { keys } = keyInputs(problem, draws[0]!.partition.headGroup.batchItem);
  const matrix = (columns: number) => new Float64Array(draws.length * columns);
  const rows: KernelRows = {
    sink: matrix(1),
    P: matrix(keys),
    dS: matrix(ps ? keys : 0),
    q: matrix(d),
    g: matrix(dv),
    ws: matrix(ps),
    wv: matrix(pv),
    rights: matrix(Math.max(rq + rk, right)),
    rightv: matrix(rv),
  };
  let first = 0;
  for (const block of blocksOf(task, draws)) {
    takeBlock(task, wasm, block, rows, first, draws.length, checkpoint);
    first += block.length;
  }
  return rows;
}

/** Rows that the kernel can take together, in order: of one head; with a mask one by one. */
function blocksOf({ plan }: Pick<AttendTask, 'plan'>, draws: readonly Draw[]): Draw[][] {
  const blocks: Draw[][] = [];
  for (const draw of draws) {
    const open = blocks.at(-1);
    const fits = open && open[0]!.partition.place === draw.partition.place && open.length < ROWS;
    if (fits && seesAll(plan.problem)) open.push(draw);
    else blocks.push([draw]);
  }
  return blocks;
}

/** Runs the kernel on a block of rows from anywhere: rows of a block do not touch each other. They are rows `at` and on of `m`. */
function takeBlock(
  { plan, workspace, wave }: Pick<AttendTask, 'plan' | 'workspace' | 'wave'>,
  wasm: Wasm,
  draws: readonly Draw[],
  to: KernelRows,
  at: number,
  m: number,
  checkpoint: Checkpoint,
): void {
  const { partition } = draws[0]!;
  const what = { plan, workspace, wave, attentionOutput: null, partitions: [partition] };
  const task: AttendTask = { kernel: 'exact', step: 'attend', ...what, first: 0, last: 0 };
  const memory = prepareMemory(task, wasm, partition, checkpoint);
  const n = draws.length;
  const { batchItem } = partition.headGroup;
  const picked = draws.map(({ row }) => row);
  const rows = { partition, first: picked[0]!, n, picked };
  const { fields } = memory;
  /** Rows of this block, or one of them. */
  const block = (x: Float64Array, first = 0, count = n) => {
    const width = x.length / m;
    return x.subarray((at + first) * width, (at + first + count) * width);
  };
  const [e, t] = [block(to.P), block(to.dS)];
  const keys = e.length / n;
  const seen = picked.map((row) => keysOfRow(plan.problem, batchItem, row));
  const copy = ({ first, count }: KeyWindow, tiles: number, into: Float64Array) => {
    const all = wasm.f32(tiles, count * ROWS);
    seen.forEach((range, i) => {
      checkpoint();
      const last = Math.min(range.last, first + count);
      for (let j = Math.max(first, range.first); j < last; j++)
        into[i * keys + j] = all[(j - first) * ROWS + i]!;
    });
  };
  if (wasm.fn.attend) {
    const range = { first: 0, last: 1, step: 1 };
    attendInOneCall(task, wasm, memory, partition, range, { picked, e, t }, checkpoint);
  } else {
    attendRows(task, wasm, memory, rows, checkpoint, {
      end: (window) => {
        copy(window, fields.e, e);
        if (t.length > 0) copy(window, fields.t, t);
      },
    });
  }
  block(to.sink).set(sinkGradients(task, wasm, memory, rows));
  block(to.q).set(wasm.f32(memory.qRows, block(to.q).length));
  block(to.g).set(wasm.f32(memory.gRows, block(to.g).length));
  block(to.ws).set(wasm.f32(fields.ws, block(to.ws).length));
  block(to.wv).set(wasm.f32(fields.wv, block(to.wv).length));
  const right = new RightSums(plan, wasm, memory);
  const sums = wasm.f64(fields.sum, n);
  for (let i = 0; i < n; i++) {
    right.take(i, block(to.rights, i, 1), block(to.rightv, i, 1));
    const over = inverse(sums[i]!);
    for (const x of [to.P, to.dS]) scale(block(x, i, 1), over);
    // The kernel has divided them.
    for (const x of [to.ws, to.wv]) scale(block(x, i, 1), over > 0 ? 1 / over : 0);
  }
}

function scale(x: Float64Array, factor: number): void {
  for (let c = 0; c < x.length; c++) x[c]! *= factor;
}
