/** Runs a task of the sampled kernel. */
import { type Cancelled, checkpointOf, withNumericFailure } from '../../job.js';
import { runExactTask } from '../exact/run.js';
import type { Wasm } from '../inner/instance.js';
import { runSampledAttend } from './attend.js';
import { runCoordinates } from './coordinates.js';
import { runNorm } from './error/norms.js';
import { runTable } from './error/tables.js';
import { runMix } from './mix.js';
import { runChoice } from './plan/choice.js';
import { runPilot } from './plan/pilot.js';
import type { PlanTask } from './plan/stages.js';
import type { SampledTask as SumsTask } from './sums.js';

export type SampledTask = PlanTask | SumsTask;

/** @throws {CancelledError} within milliseconds of `cancelled` answering true. */
export function runSampledTask(task: SampledTask, wasm: Wasm, cancelled: Cancelled): unknown {
  if (task.kernel === 'exact') return runExactTask(task, wasm, cancelled);
  const checkpoint = checkpointOf(cancelled);
  switch (task.step) {
    case 'coordinates':
      return runCoordinates(task, wasm, checkpoint);
    case 'pilot':
      return withNumericFailure(() => runPilot(task, wasm, checkpoint));
    case 'choose':
      return runChoice(task, checkpoint);
    case 'table':
      return runTable(task, wasm, checkpoint);
    case 'norm':
      return runNorm(task, wasm, checkpoint);
    case 'mix':
      return runMix(task, checkpoint);
    case 'attend':
      return runSampledAttend(task, wasm, checkpoint);
  }
}
