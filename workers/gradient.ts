/** What a worker thread runs: one task of any kernel, its outcome as a value. */
import type { TaskMessage, TaskOutcome } from '../src/pool/message.js';
import { type CalibrateTask, runCalibrateTask } from './calibrate.js';
import { type DecodeTask, runDecodeTask } from './decode.js';
import { type DigestTask, runDigestTask } from './digest.js';
import { type EncodeTask, runEncodeTask } from './encode.js';
import { type ExactTask, runExactTask } from './kernels/exact/gradient.js';
import { type Cancelled, CancelledError } from './kernels/job.js';
import { type LowRankTask, runCompiledLowRankTask } from './kernels/low-rank/task.js';
import { type ReferenceTask, runReferenceTask } from './kernels/reference/gradient.js';
import { type ReferenceNormsTask, runReferenceNormsTask } from './kernels/reference/heads.js';
import { runWarmUpTask, type WarmUpTask } from './warm-up.js';
import { wasm } from './wasm.js';

type AnyTask =
  | DecodeTask
  | DigestTask
  | EncodeTask
  | ExactTask
  | LowRankTask
  | CalibrateTask
  | ReferenceTask
  | ReferenceNormsTask
  | WarmUpTask;

function run(task: AnyTask, cancelled: Cancelled): unknown {
  switch (task.kernel) {
    case 'decode':
      return runDecodeTask(task, cancelled);
    case 'digest':
      return runDigestTask(task, cancelled);
    case 'encode':
      return runEncodeTask(task);
    case 'exact':
      return runExactTask(task, wasm, cancelled);
    case 'low_rank':
      return runCompiledLowRankTask(task, wasm, cancelled);
    case 'reference':
      return runReferenceTask(task, cancelled);
    case 'reference_norms':
      return runReferenceNormsTask(task, cancelled);
    case 'calibrate':
      return runCalibrateTask(task, wasm, cancelled);
    case 'warm_up':
      return runWarmUpTask(task, wasm, cancelled);
  }
}

export default function runTask({ task, cancel }: TaskMessage): TaskOutcome {
  try {
    return {
      status: 'done',
      value: run(task as AnyTask, () => Atomics.load(cancel, 0) !== 0),
    };
  } catch (error) {
    if (error instanceof CancelledError) return { status: 'cancelled' };
    const { message, stack } = error as Error;
    return { status: 'failed', message, stack };
  }
}
