/** The attention stage where blocks choose their keys: these are gathered, and their left products scattered back. */
import type { Checkpoint } from '../../job.js';
import type { Contradiction } from '../../problem.js';
import type { Wasm } from '../inner/instance.js';
import { type AttendReport, attendBlock, clearSums, rowsOf, sumsOfPartition } from './attend.js';
import { AttendCall } from './in-one-call.js';
import { type AttentionMemory, prepareMemory } from './memory.js';
import type { PartitionOfHead, Partitions, RowBlock } from './task.js';

/** Keys of a block that are in memory as a list of their own, with their left products. */
export interface ListedKeys {
  /** The same fields for all lists of a partition. */
  readonly memory: AttentionMemory;
  readonly count: number;
  /** Adds their left products to those of the partition. */
  scatter(): void;
  /** Called when the block is done. */
  after?(): void;
}

/** Chooses the keys of a block; null: all of them. */
export type KeyChoice = (rows: RowBlock) => ListedKeys | null;

/** @param choose asked once for each partition; all keys of a head fit one window. */
export function attendByLists(
  task: Partitions,
  wasm: Wasm,
  checkpoint: Checkpoint,
  choose: (memory: AttentionMemory, partition: PartitionOfHead) => KeyChoice,
): AttendReport {
  const { plan } = task;
  let loss = 0;
  let contradiction: Contradiction | null = null;
  for (const partition of task.partitions) {
    const memory = prepareMemory(task, wasm, partition, checkpoint);
    if (task.first === 0) clearSums(task, partition);
    const choice = choose(memory, partition);
    const sums = sumsOfPartition(task, wasm, memory, partition);
    const all = { first: 0, count: plan.keys };
    const callOf = (memory: AttentionMemory) =>
      new AttendCall(task, wasm, memory, partition, null, checkpoint);
    const calls: { all?: AttendCall; listed?: AttendCall } = {};
    if (!wasm.addressOf) sums.begin(all);
    for (let index = task.first; index < task.last; index++) {
      const block = partition.partition + index * plan.partitions;
      if (block >= plan.blocks) break;
      checkpoint();
      const rows = rowsOf(plan, partition, block);
      const keys = choice(rows);
      const range = { first: block, last: block + 1, step: 1 };
      let report: AttendReport;
      if (keys) {
        if (wasm.fn.attend) {
          calls.listed ??= callOf(keys.memory);
          report = calls.listed.run(range, keys.count);
        } else {
          const listed = { ...rows, listed: keys.count };
          report = attendBlock(task, wasm, keys.memory, listed, checkpoint, {});
        }
      } else if (wasm.fn.attend) {
        calls.all ??= callOf(memory);
        report = calls.all.run(range);
      } else report = attendBlock(task, wasm, memory, rows, checkpoint, {});
      keys?.scatter();
      keys?.after?.();
      loss += report.loss;
      contradiction ??= report.contradiction;
    }
    if (!wasm.addressOf) sums.end(all);
  }
  return { loss, contradiction };
}
