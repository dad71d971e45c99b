/** How fast this machine runs each kernel: measured once, when the service starts. */

import { type Cancelled, runJob, type Task } from '../job.js';
import { exactFlops, PAIR_OVERHEAD } from '../kernels/exact/cost.js';
import { exactForwardJob } from '../kernels/exact/forward.js';
import { exactJob } from '../kernels/exact/gradient.js';
import { type ExactTask, runExactTask } from '../kernels/exact/run.js';
import type { Wasm } from '../kernels/inner/instance.js';
import { lowRankJob } from '../kernels/low-rank/job.js';
import type { Rates } from '../kernels/low-rank/plan/cost.js';
import { planLowRank } from '../kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../kernels/low-rank/task.js';
import type { AttentionProblem } from '../problem.js';
import { sampleProblem } from './sample-problem.js';

export interface CalibrateTask extends Task {
  readonly kernel: 'calibrate';
}

/** Long enough to be typical of long inputs, short enough for a start in a second. */
const LENGTH = 2048;
const WIDTH = 64;
/** Here most of the time are exponentials, and what else a pair costs beside its flops. */
const NARROW = 8;
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
  const run = (task: ExactTask) => runExactTask(task, wasm, cancelled);
  const exact = (of: AttentionProblem) => () =>
    runJob(exactJob(of, { attentionOutput: false }), run);
  const narrow = sampleProblem(LENGTH, NARROW, RANK);
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
  const output = (of: AttentionProblem) => () => runJob(exactForwardJob(of, { seed: 0 }), run);
  const half = sampleProblem(LENGTH / 2, NARROW, RANK);
  const [wideSeconds, narrowSeconds, outputSeconds, halfSeconds, lowRankSeconds] = fastest([
    ...[exact(problem), exact(narrow), output(narrow), output(half), lowRank],
  ]) as [number, number, number, number, number];
  const flops = (of: AttentionProblem, gradients: boolean) =>
    exactFlops(of, { gradients, output: !gradients, inputGradients: false });
  // Both take as long for a pair, beside its flops; on a busy machine this may come out absurd.
  const slope = (flops(problem, true) - flops(narrow, true)) / (wideSeconds - narrowSeconds);
  const least = flops(problem, true) / wideSeconds;
  const rate = slope > least && slope < MOST_OVERHEAD * least ? slope : least;
  const overhead = (seconds: number, work: number, pairs: number) =>
    (rate * seconds - work) / pairs;
  const gradient = between(
    PAIR_OVERHEAD / MOST_OFF,
    overhead(narrowSeconds, flops(narrow, true), LENGTH ** 2),
    PAIR_OVERHEAD * MOST_OFF,
  );
  // Twice the half: what grows with the length alone, like the sample of rows, is left out.
  const ofOutput = overhead(
    outputSeconds - 2 * halfSeconds,
    flops(narrow, false) - 2 * flops(half, false),
    LENGTH ** 2 / 2,
  );
  return {
    exact: rate,
    lowRank: plan.flops / lowRankSeconds,
    pairs: { gradient, output: between(gradient / MOST_OFF, ofOutput, gradient) },
  };
}

/** Of the time of a head of common width, what is not flops: at most half of it. */
const MOST_OVERHEAD = 2;
/** A busy machine is off by more than any processor from another. */
const MOST_OFF = 3;

const between = (least: number, x: number, most: number) => Math.min(most, Math.max(least, x));

/** The first round also compiles; the kernels take turns, so that a busy machine slows down both. */
const ROUNDS = 4;

/** Seconds of the fastest of several runs of each. */
function fastest(runs: readonly (() => unknown)[]): number[] {
  const seconds = runs.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [k, run] of runs.entries()) {
      const [start, used] = [performance.now(), process.cpuUsage()];
      run();
      const { user, system } = process.cpuUsage(used);
      // Where others have the processor, less time was used than has passed.
      seconds[k] = Math.min(
        seconds[k],
        (performance.now() - start) / 1000,
        (user + system) / 1_000_000,
      );
    }
  }
  return seconds;
}
