/** How fast this machine runs the exact kernel: measured once, when the service starts. */

import { type Cancelled, runJob, type Task } from '../../job.js';
import { exactFlops, PAIR_OVERHEAD } from '../../kernels/exact/cost.js';
import { exactForwardJob } from '../../kernels/exact/forward.js';
import { exactJob } from '../../kernels/exact/gradient.js';
import { type ExactTask, runExactTask } from '../../kernels/exact/run.js';
import type { Wasm } from '../../kernels/inner/instance.js';
import type { Rates } from '../../kernels/low-rank/plan/cost.js';
import type { AttentionProblem } from '../../problem.js';
import { sampleProblem } from '../sample-problem.js';
import { fastest } from './fastest.js';

export interface CalibrateTask extends Task {
  readonly kernel: 'calibrate';
}

/** Long enough to be typical of long inputs, short enough for a start in a second. */
export const LENGTH = 2048;
export const WIDTH = 64;
/** Here most of the time are exponentials, and what else a pair costs beside its flops. */
const NARROW = 8;
export const RANK = 8;

/** @returns flops per second on one thread, overheads included. */
export function runCalibrateTask(_task: CalibrateTask, wasm: Wasm, cancelled: Cancelled): Rates {
  const problem = sampleProblem(LENGTH, WIDTH, RANK);
  const run = (task: ExactTask) => runExactTask(task, wasm, cancelled);
  const exact = (of: AttentionProblem) => () =>
    runJob(exactJob(of, { attentionOutput: false }), run);
  const narrow = sampleProblem(LENGTH, NARROW, RANK);
  const output = (of: AttentionProblem) => () => runJob(exactForwardJob(of, { seed: 0 }), run);
  const half = sampleProblem(LENGTH / 2, NARROW, RANK);
  const [wideSeconds, narrowSeconds, outputSeconds, halfSeconds] = fastest([
    ...[exact(problem), exact(narrow), output(narrow), output(half)],
  ]) as [number, number, number, number];
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
    lowRank: LOW_RANK_SHARE * rate,
    lowRankGuessed: true,
    pairs: { gradient, output: between(gradient / MOST_OFF, ofOutput, gradient) },
  };
}

/** Rate of low-rank as a share of the exact kernel's, roughly: enough for a price. */
const LOW_RANK_SHARE = 0.6;
/** Largest ratio of the two rates: at most half of the time of a head of common width is not flops. */
const MOST_OVERHEAD = 2;
/** A busy machine is off by more than any processor from another. */
const MOST_OFF = 3;

const between = (least: number, x: number, most: number) => Math.min(most, Math.max(least, x));
