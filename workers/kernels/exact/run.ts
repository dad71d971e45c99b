/** Runs a task of the exact kernel, of any stage. */
import {
  type Cancelled,
  checkpointOf,
  type Job,
  type LargeTask,
  type RunStage,
  runJob,
} from '../../job.js';
import { runAttend } from '../attention/attend.js';
import type { Wasm } from '../inner/instance.js';
import { runBlocks } from '../parts/blocks.js';
import { runContract } from './contract.js';
import { estimateErrors } from './error/estimate.js';
import { runSample } from './error/sample.js';
import { runStateSample } from './error/sample-states.js';
import { runFinish } from './finish.js';
import { type ForwardTask, forwardStages, runForwardSample } from './forward.js';
import { runFull } from './full.js';
import { exactStages, type GradientTask } from './gradient.js';
import { runProject } from './project.js';

/** Parts are jobs, which run where their job runs. */
export type ExactTask = Exclude<GradientTask | ForwardTask, LargeTask>;

/**
 * @param all runs the stages of all of a problem; by default this thread does.
 * @throws {CancelledError} within milliseconds of `cancelled` answering true.
 */
export function runExactTask(
  task: ExactTask,
  wasm: Wasm,
  cancelled: Cancelled,
  all?: RunStage,
): unknown {
  if (task.kernel === 'parts') return runBlocks(task, cancelled);
  const checkpoint = checkpointOf(cancelled);
  switch (task.step) {
    case 'project':
      return runProject(task, wasm, checkpoint);
    case 'attend':
      return runAttend(task, wasm, checkpoint);
    case 'sample':
      return runSample(task, wasm, checkpoint);
    case 'sample_states':
      return runStateSample(task, wasm, checkpoint);
    case 'contract':
      return runContract(task, wasm, checkpoint);
    case 'full':
      return runFull(task, wasm, checkpoint);
    case 'forward_sample':
      return runForwardSample(task, wasm, checkpoint);
    case 'several':
      return task.tasks.map((one) => runExactTask(one as ExactTask, wasm, cancelled));
    case 'finish':
      return runFinish(task);
    case 'estimate':
      return estimateErrors(task);
    case 'whole':
      return inOneTask(exactStages(task.problem, task.options), wasm, cancelled, all);
    case 'whole_forward':
      return inOneTask(forwardStages(task.layer, task.seed), wasm, cancelled, all);
  }
}

function inOneTask<Result>(
  job: Job<Result, ExactTask>,
  wasm: Wasm,
  cancelled: Cancelled,
  all?: RunStage,
): Result {
  return runJob(job, (task) => runExactTask(task, wasm, cancelled), cancelled, all);
}
