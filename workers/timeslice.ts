/** What goes to a worker thread and what comes back. Errors travel as values: threads strip them. */
import type { Task } from './job.js';
import type { Others } from './team.js';

/**
 * One worker's timeslice at a stage: it runs the first of `tasks`, which nobody else has begun, and then takes
 * more of them from the board until TIMESLICE_MS have passed. So a stage of many short tasks costs few
 * messages, and its workers are busy until the last task has been begun.
 */
export interface Timeslice {
  readonly tasks: readonly Task[];
  /** Index in the stage of the first of them. */
  readonly first: number;
  /** The stride of the stage. */
  readonly stride: number | null;
  /** The words of the stage's Board. */
  readonly board: Int32Array;
  /** Workers that join the job that its task is. */
  readonly others?: Others;
}

/** A timeslice ends with the first task that is done after this time; then it is another job's. */
export const TIMESLICE_MS = 10;

export type TimesliceOutcome =
  | { readonly status: 'done'; readonly results: readonly TaskResult[] }
  | { readonly status: 'cancelled' }
  /** Others before it took all of the time. */
  | { readonly status: 'left' }
  /** The worker ended; said by the pool. */
  | { readonly status: 'lost'; readonly message: string }
  | { readonly status: 'failed'; readonly message: string; readonly stack: string | undefined };

export interface TaskResult {
  /** Index of the task in its stage. */
  readonly index: number;
  readonly value: unknown;
}
