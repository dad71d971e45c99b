/** Every task that a worker can be given, and what runs it. */
import type { Cancelled, RunStage } from '../job.js';
import { type ExactTask, runExactTask } from '../kernels/exact/run.js';
import type { Wasm } from '../kernels/inner/instance.js';
import { type LowRankTask, runLowRankTask } from '../kernels/low-rank/task.js';
import { type ReferenceTask, runReferenceTask } from '../kernels/reference/operations.js';
import { runSampledTask, type SampledTask } from '../kernels/sampled/run.js';
import { type CalibrateTask, runCalibrateTask } from './calibration/calibrate.js';
import {
  type CalibrateLowRankTask,
  runCalibrateLowRankTask,
} from './calibration/calibrate-low-rank.js';
import { type DecodeTask, runDecodeTask } from './decode.js';
import { type DigestTask, runDigestTask } from './digest.js';
import { type EncodeTask, runEncodeTask } from './encode.js';
import { type FiniteTask, runFiniteTask } from './finite.js';
import { runWarmUpTask, type WarmUpTask } from './warm-up.js';

export type AnyTask =
  | DecodeTask
  | DigestTask
  | EncodeTask
  | ExactTask
  | FiniteTask
  | LowRankTask
  | CalibrateLowRankTask
  | CalibrateTask
  | ReferenceTask
  | SampledTask
  | WarmUpTask;

/** @param all runs the stages of a task that is a job; by default this thread does. */
export function runTask(task: AnyTask, wasm: Wasm, cancelled: Cancelled, all?: RunStage): unknown {
  switch (task.kernel) {
    case 'decode':
      return runDecodeTask(task, cancelled);
    case 'digest':
      return runDigestTask(task, cancelled);
    case 'encode':
      return runEncodeTask(task);
    case 'parts':
    case 'exact':
      return runExactTask(task, wasm, cancelled, all);
    case 'finite':
      return runFiniteTask(task, cancelled);
    case 'low_rank':
      return runLowRankTask(task, wasm, cancelled);
    case 'reference':
      return runReferenceTask(task, cancelled);
    case 'sampled':
      return runSampledTask(task, wasm, cancelled);
    case 'calibrate':
      return runCalibrateTask(task, wasm, cancelled);
    case 'calibrate_low_rank':
      return runCalibrateLowRankTask(task, wasm, cancelled);
    case 'warm_up':
      return runWarmUpTask(task, wasm, cancelled);
  }
}
