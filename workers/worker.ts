/** What a worker thread runs: its turn at a stage, tasks of any kernel; the outcome as a value. */
import { Board } from './board.js';
import { type Cancelled, CancelledError } from './job.js';
import { type ExactTask, runExactTask } from './kernels/exact/run.js';
import { type LowRankTask, runLowRankTask } from './kernels/low-rank/task.js';
import { type ReferenceTask, runReferenceTask } from './kernels/reference/operations.js';
import type { SampledTask } from './kernels/sampled/job.js';
import { runSampledTask } from './kernels/sampled/run.js';
import { type CalibrateTask, runCalibrateTask } from './tasks/calibrate.js';
import { type DecodeTask, runDecodeTask } from './tasks/decode.js';
import { type DigestTask, runDigestTask } from './tasks/digest.js';
import { type EncodeTask, runEncodeTask } from './tasks/encode.js';
import { type FiniteTask, runFiniteTask } from './tasks/finite.js';
import { giveBack, type RestTask } from './tasks/rest.js';
import { runWarmUpTask, type WarmUpTask } from './tasks/warm-up.js';
import { type TaskResult, TURN_MS, type Turn, type TurnOutcome } from './turn.js';
import { renewWasm, wasm } from './wasm.js';

type AnyTask =
  | DecodeTask
  | DigestTask
  | EncodeTask
  | ExactTask
  | FiniteTask
  | LowRankTask
  | CalibrateTask
  | ReferenceTask
  | RestTask
  | SampledTask
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
    case 'finite':
      return runFiniteTask(task, cancelled);
    case 'low_rank':
      return runLowRankTask(task, wasm, cancelled);
    case 'reference':
      return runReferenceTask(task);
    case 'rest':
      renewWasm();
      return giveBack();
    case 'sampled':
      return runSampledTask(task, wasm, cancelled);
    case 'calibrate':
      return runCalibrateTask(task, wasm, cancelled);
    case 'warm_up':
      return runWarmUpTask(task, wasm, cancelled);
  }
}

export default function takeTurn({ tasks, first, stride, board: words, beat }: Turn): TurnOutcome {
  const board = new Board(words);
  const cancelled = Object.assign(
    () => {
      Atomics.add(beat, 0, 1);
      return board.stopped;
    },
    { words: { stop: board.stopWord, beat } },
  );
  const end = performance.now() + TURN_MS;
  const results: TaskResult[] = [];
  try {
    for (let index: number | null = first; index !== null; ) {
      const before = stride === null ? -1 : index - stride;
      if (cancelled() || (before >= 0 && !board.waitFor(before, cancelled)))
        throw new CancelledError();
      results.push({ index, value: run(tasks[index - first] as AnyTask, cancelled) });
      board.finish(index);
      index = performance.now() < end ? board.begin(first + tasks.length) : null;
    }
    return { status: 'done', results };
  } catch (error) {
    if (error instanceof CancelledError) return { status: 'cancelled' };
    const { message, stack } = error as Error;
    return { status: 'failed', message, stack };
  }
}
