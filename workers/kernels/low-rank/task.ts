/** The tasks of the low-rank kernel, and what a worker thread does with one. */
import type { Task } from '../job.js';
import type { Arithmetic } from './arithmetic.js';
import { type RowScan, sampleBasis, scanRows } from './basis.js';
import { headGradients } from './gradient.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { keyPass } from './keys.js';
import type { Segment } from './layout.js';
import { leftPass } from './left.js';
import { queryPass } from './queries.js';
import { openWorkspace } from './rows.js';
import type { HeadRun } from './run.js';

export type LowRankTask = Task & { readonly kernel: 'low_rank' } & (
    | {
        readonly step: 'basis';
        readonly head: Head;
        readonly outlierShares: readonly number[];
        readonly seed: number;
      }
    | {
        readonly step: 'scan';
        readonly head: Head;
        readonly plan: HeadPlan;
        readonly segment: Segment;
        readonly scan: RowScan;
      }
    | {
        readonly step: 'keys' | 'queries' | 'left';
        readonly run: HeadRun;
        readonly segment: number;
      }
    | { readonly step: 'gradients'; readonly run: HeadRun }
  );

export function runLowRankTask(
  task: LowRankTask,
  arithmetic: Arithmetic,
  cancelled: () => boolean,
): unknown {
  const mark = arithmetic.mark();
  try {
    switch (task.step) {
      case 'basis':
        return sampleBasis(arithmetic, task.head, task.outlierShares, task.seed);
      case 'scan':
        return scanRows(arithmetic, task.head, task.plan, task.segment, task.scan);
      case 'gradients':
        return headGradients(arithmetic, task.run);
      default: {
        const { run, segment } = task;
        const space = openWorkspace(arithmetic, run.head, run.plan);
        if (task.step === 'keys') keyPass(space, run, segment, null, cancelled);
        else if (task.step === 'queries') queryPass(space, run, segment, null, cancelled);
        else leftPass(space, run, segment, cancelled);
        return null;
      }
    }
  } finally {
    arithmetic.release(mark);
  }
}
