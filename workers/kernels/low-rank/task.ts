/** The tasks of the low-rank kernel, and what a worker thread does with one. */
import type { Task } from '../job.js';
import type { Arithmetic } from './arithmetic.js';
import { type RowScan, scanRows } from './basis.js';
import { type Draw, estimateTensor, rowWeights } from './estimate.js';
import { headGradients } from './gradient.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { keyPass } from './keys.js';
import type { Segment } from './layout.js';
import { leftPass } from './left.js';
import { queryPass } from './queries.js';
import { openWorkspace } from './rows.js';
import type { HeadRun } from './run.js';
import { type SampledRun, sampledErrorPass, sampledExactPass } from './sampled.js';
import { tryShare } from './trial.js';

export type LowRankTask = Task & { readonly kernel: 'low_rank' } & (
    | {
        readonly step: 'trial';
        readonly head: Head;
        readonly outlierShare: number;
        readonly mostFeatures: number;
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
    | {
        readonly step: 'weights';
        readonly head: Head;
        readonly centre: Float64Array;
        readonly segment: Segment;
        readonly weights: Float64Array;
      }
    | {
        readonly step: 'sampled_exact' | 'sampled_errors';
        readonly sampled: SampledRun;
        readonly segment: number;
      }
    | {
        readonly step: 'estimate';
        readonly sampled: readonly SampledRun[];
        readonly draws: readonly Draw[];
        readonly tensor: number;
        readonly size: number;
      }
  );

export function runLowRankTask(
  task: LowRankTask,
  arithmetic: Arithmetic,
  cancelled: () => boolean,
): unknown {
  const mark = arithmetic.mark();
  try {
    switch (task.step) {
      case 'trial':
        return tryShare(arithmetic, task.head, task.outlierShare, task.mostFeatures, task.seed);
      case 'scan':
        return scanRows(arithmetic, task.head, task.plan, task.segment, task.scan);
      case 'gradients':
        return headGradients(arithmetic, task.run);
      case 'weights': {
        const { head, centre, segment, weights } = task;
        return rowWeights(head, head.objectiveStride, centre, segment.from, segment.to, weights);
      }
      case 'sampled_exact':
      case 'sampled_errors': {
        const { sampled, segment, step } = task;
        const space = openWorkspace(arithmetic, sampled.run.head, sampled.run.plan);
        const pass = step === 'sampled_exact' ? sampledExactPass : sampledErrorPass;
        return pass(space, sampled, segment);
      }
      case 'estimate':
        return estimateTensor(arithmetic, task.sampled, task.draws, task.tensor, task.size);
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
