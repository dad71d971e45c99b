/** What the attention stage is asked for: partitions of a wave, and the rows of a partition that are taken together. */
import type { ExactPlan, HeadGroup, Workspace } from './plan.js';

export interface AttendTask extends Partitions {
  readonly kernel: 'exact';
  readonly step: 'attend';
}

/** Row blocks of some partitions of a wave. */
export interface Partitions {
  readonly kernel: 'exact' | 'sampled';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  /** (B, Lq, H dv) or null */
  readonly attentionOutput: Float32Array | null;
  readonly wave: number;
  /** Partitions, each with its query head and that head's index in the wave (`place`). */
  readonly partitions: readonly PartitionOfHead[];
  /** Row blocks [first, last) of each partition: number k of partition l is row block l + k partitions. */
  readonly first: number;
  readonly last: number;
}

export interface PartitionOfHead {
  readonly place: number;
  readonly headGroup: HeadGroup;
  readonly head: number;
  readonly partition: number;
}

/** Rows of a partition's query head: `first` and the n - 1 after it, or those that `picked` lists. */
export interface RowBlock {
  readonly partition: PartitionOfHead;
  readonly first: number;
  readonly n: number;
  readonly picked?: readonly number[];
  /** Number of keys of a list that are in memory, instead of all keys of the head. Absent: all keys. */
  readonly listed?: number;
}

/** Number of row i of the block in its sequence. */
export const rowAt = ({ first, picked }: RowBlock, i: number): number =>
  picked ? picked[i]! : first + i;
