/** What one block of rows adds to the gradients: as it was added, or over all keys that it sees, beside the job's sums. */
import type { Checkpoint } from '../../../job.js';
import { keysOfRows } from '../../../mask.js';
import { attendBlock } from '../../attention/attend.js';
import { attendInOneCall } from '../../attention/in-one-call.js';
import type { AttentionMemory } from '../../attention/memory.js';
import type { PartitionOfHead, Partitions, RowBlock } from '../../attention/task.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { slice } from '../../inner/operands.js';

/** What the workspace holds of the rows of a block, and of its partition. */
interface Sums {
  /** (n, right) */
  readonly right: Float32Array;
  readonly outK: Float64Array;
  readonly outV: Float64Array;
}

/** The products of a block alone. */
export interface Products extends Sums {
  /** Where its left products and the block of rows are. */
  readonly memory: AttentionMemory;
  /** Keys of these left products; null: the first `count` ones. */
  readonly index: Int32Array | null;
  readonly count: number;
}

function sumsOf(
  { plan, workspace }: Partitions,
  partition: PartitionOfHead,
  { first, n }: RowBlock,
): Sums {
  const { queryLength, headDim, valueDim } = plan.problem.dims;
  const { right, rk, rv } = plan.thin;
  const number = partition.place * plan.partitions + partition.partition;
  const rows = slice(workspace.rightQ, partition.place, queryLength * right);
  return {
    right: rows.subarray(first * right, (first + n) * right),
    outK: slice(workspace.outK, number, headDim * rk),
    outV: slice(workspace.outV, number, valueDim * rv),
  };
}

const copyOf = ({ right, outK, outV }: Sums): Sums => ({
  ...{ right: right.slice(), outK: outK.slice(), outV: outV.slice() },
});

export class Apart {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;

  constructor(task: Partitions, wasm: Wasm, memory: AttentionMemory) {
    const { ls, ps, pv } = task.plan.thin;
    this.#task = { ...task, attentionOutput: null };
    this.#wasm = wasm;
    const floats = (width: number) => wasm.allocFloats(task.plan.keys * width);
    this.#memory = {
      ...memory,
      fields: { ...memory.fields, ls: ls ? floats(ps) : 0, lv: pv ? floats(pv) : 0 },
    };
  }

  /** The sums before a block is attended: what it adds is what they gain. */
  before(rows: RowBlock): Sums {
    return copyOf(sumsOf(this.#task, rows.partition, rows));
  }

  /** What a block has added since, with its left products in a list of its own. */
  since(before: Sums, rows: RowBlock, memory: AttentionMemory, index: Int32Array): Products {
    return { ...this.#gain(before, rows), memory, index, count: index.length };
  }

  /** What the block adds with all keys that it sees. The workspace stays as it is. */
  whole(rows: RowBlock, checkpoint: Checkpoint): Products {
    const { plan } = this.#task;
    const { partition, first, n } = rows;
    const { ps, pv } = plan.thin;
    const { fields } = this.#memory;
    const { last } = keysOfRows(plan.problem, partition.headGroup.batchItem, {
      first,
      last: first + n,
    });
    if (fields.ls) this.#wasm.f32(fields.ls, last * ps).fill(0);
    if (fields.lv) this.#wasm.f32(fields.lv, last * pv).fill(0);
    const sums = sumsOf(this.#task, partition, rows);
    const before = copyOf(sums);
    const number = partition.place * plan.partitions + partition.partition;
    const sinks = slice(this.#task.workspace.sinks, number, 1);
    const [sink] = sinks as unknown as readonly [number];
    const block = first / ROWS;
    const range = { first: block, last: block + 1, step: 1 };
    if (this.#wasm.fn.attend) {
      attendInOneCall(this.#task, this.#wasm, this.#memory, partition, range, null, checkpoint);
    } else attendBlock(this.#task, this.#wasm, this.#memory, rows, checkpoint, {});
    const gain = this.#gain(before, rows);
    for (const name of ['right', 'outK', 'outV'] as const) sums[name].set(before[name]);
    sinks.set([sink]);
    return { ...gain, memory: this.#memory, index: null, count: last };
  }

  #gain(before: Sums, rows: RowBlock): Sums {
    const { right, outK, outV } = copyOf(sumsOf(this.#task, rows.partition, rows));
    const less = (x: Float64Array, y: Float64Array) => x.map((a, k) => a - y[k]!);
    return {
      right,
      outK: less(outK, before.outK),
      outV: less(outV, before.outV),
    };
  }
}
