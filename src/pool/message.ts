/** What goes to a worker thread and what comes back. Errors travel as values: threads strip them. */
import type { Task } from '../../workers/kernels/job.js';

export interface TaskMessage {
  readonly task: Task;
  /** One element over a SharedArrayBuffer; not zero: stop. */
  readonly cancel: Int32Array;
}

export type TaskOutcome =
  | { readonly status: 'done'; readonly value: unknown }
  | { readonly status: 'cancelled' }
  | { readonly status: 'failed'; readonly message: string; readonly stack: string | undefined };
