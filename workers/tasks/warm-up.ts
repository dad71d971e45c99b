/** The first task of every worker: loads the kernels and waits until all workers have come that far. */

import { type Cancelled, CancelledError, runJob, type Task } from '../job.js';
import { exactJob } from '../kernels/exact/gradient.js';
import { runExactTask } from '../kernels/exact/run.js';
import type { Wasm } from '../kernels/inner/instance.js';
import { referenceJob } from '../kernels/reference/gradient.js';
import { runReferenceTask } from '../kernels/reference/operations.js';
import { sampleProblem } from './sample-problem.js';

export interface WarmUpTask extends Task {
  readonly kernel: 'warm_up';
  /** Counts the workers that have arrived; one element over a SharedArrayBuffer. */
  readonly arrived: Int32Array;
  readonly expected: number;
}

const POLL_MS = 50;

/** @throws {CancelledError} when the others do not arrive before the task is cancelled. */
export function runWarmUpTask(task: WarmUpTask, wasm: Wasm, cancelled: Cancelled): void {
  const options = { attentionOutput: false };
  const problem = sampleProblem(4, 4, 1);
  runJob(referenceJob(problem, options), runReferenceTask);
  runJob(exactJob(problem, options), (exact) => runExactTask(exact, wasm, cancelled));
  Atomics.add(task.arrived, 0, 1);
  Atomics.notify(task.arrived, 0);
  for (;;) {
    const arrived = Atomics.load(task.arrived, 0);
    if (arrived >= task.expected) return;
    if (cancelled()) throw new CancelledError();
    Atomics.wait(task.arrived, 0, arrived, POLL_MS);
  }
}
