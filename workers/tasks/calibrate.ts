/** How fast this machine runs each kernel: measured once, when the service starts. */

import { type Cancelled, runJob, type Task } from '../job.js';
import { exactWork } from '../kernels/exact/cost.js';
import { exactJob } from '../kernels/exact/gradient.js';
import { runExactTask } from '../kernels/exact/run.js';
import type { Wasm } from '../kernels/inner/instance.js';
import { lowRankJob } from '../kernels/low-rank/job.js';
import type { Rates } from '../kernels/low-rank/plan/cost.js';
import { planLowRank } from '../kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../kernels/low-rank/task.js';
import { sampleProblem } from './sample-problem.js';

export interface CalibrateTask extends Task {
  readonly kernel: 'calibrate';
}

/** Long enough to be typical of long inputs, short enough for a start in a second. */
const LENGTH = 2048;
const WIDTH = 64;
const RANK = 8;
const FEATURES = 64;

/** @returns flops per second of each kernel on one thread, overheads included. */
export function runCalibrateTask(_task: CalibrateTask, wasm: Wasm, cancelled: Cancelled): Rates {
  const problem = sampleProblem(LENGTH, WIDTH, RANK);
  const runLowRank = (task: LowRankTask) => runLowRankTask(task, wasm, cancelled);
  const plan = runJob(
    planLowRank(problem, {
      features: FEATURES,
      tolerance: 1,
      seed: 0,
      // Not asked for the cheapest: the number of features is given.
      rates: { exact: 1, lowRank: 1 },
    }),
    runLowRank,
  );
  const exact = () =>
    runJob(exactJob(problem, { attentionOutput: false }), (task) =>
      runExactTask(task, wasm, cancelled),
    );
  const lowRank = () =>
    runJob(
      lowRankJob(problem, plan, {
        seed: 0,
        correction: false,
        certificate: false,
        attentionOutput: false,
      }),
      runLowRank,
    );
  const seconds = fastest([exact, lowRank]);
  return {
    exact:
      exactWork(problem, { output: false, gradients: true, inputGradients: false }) / seconds[0],
    lowRank: plan.flops / seconds[1],
  };
}

/** The first round also compiles; the kernels take turns, so that a busy machine slows down both. */
const ROUNDS = 4;

/** Seconds of the fastest of several runs of each. */
function fastest(runs: readonly (() => unknown)[]): number[] {
  const seconds = runs.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [k, run] of runs.entries()) {
      const start = performance.now();
      run();
      seconds[k] = Math.min(seconds[k], (performance.now() - start) / 1000);
    }
  }
  return seconds;
}
