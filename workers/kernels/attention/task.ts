/** What the attention stage is asked for: lanes of a wave, and the rows of a lane that are taken together. */
import type { ExactPlan, Unit, Workspace } from './plan.js';

export interface AttendTask extends Lanes {
  readonly kernel: 'exact';
  readonly step: 'attend';
}

/** Row blocks of some lanes of a wave. */
export interface Lanes {
  readonly kernel: 'exact' | 'sampled';
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
  /** In memory are so many keys of a list, and no others. Absent: all keys of the head. */
  readonly listed?: number;
}

/** Number of row i of the block in its sequence. */
export const rowAt = ({ first, picked }: RowBlock, i: number): number =>
  picked ? picked[i]! : first + i;
