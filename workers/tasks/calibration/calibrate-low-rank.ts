/** How fast this machine runs the low-rank kernel. About a second goes by: its code is compiled meanwhile. */
import { type Cancelled, runJob, type Task } from '../../job.js';
import type { Wasm } from '../../kernels/inner/instance.js';
import { lowRankJob } from '../../kernels/low-rank/job.js';
import { planLowRank } from '../../kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../kernels/low-rank/task.js';
import { sampleProblem } from '../sample-problem.js';
import { RANK, WIDTH } from './calibrate.js';
import { fastest } from './fastest.js';

export interface CalibrateLowRankTask extends Task<number> {
  readonly kernel: 'calibrate_low_rank';
}

const FEATURES = 64;
/** About the shortest that is planned for: with fewer rows most of the time is spent around them. */
const LENGTH = 8192;

/** @returns flops per second on one thread, overheads included. */
export function runCalibrateLowRankTask(
  _task: CalibrateLowRankTask,
  wasm: Wasm,
  cancelled: Cancelled,
): number {
  const problem = sampleProblem(LENGTH, WIDTH, RANK);
  const run = (task: LowRankTask) => runLowRankTask(task, wasm, cancelled);
  const plan = runJob(
    planLowRank(problem, {
      features: FEATURES,
      tolerance: 1,
      seed: 0,
      // Not asked for the cheapest: the number of features is given.
      rates: { exact: 1, lowRank: 1 },
    }),
    run,
  );
  const options = { seed: 0, correction: false, certificate: false, attentionOutput: false };
  const [seconds] = fastest([() => runJob(lowRankJob(problem, plan, options), run)]);
  return plan.flops / seconds!;
}
