/**
 * Where jobs run: worker threads today, a queue of machines perhaps tomorrow. Routes and planners see
 * only this.
 */
import type { Job } from '../../workers/kernels/job.js';

export interface RunContext {
  /** When it aborts, the job is stopped within milliseconds and `run` rejects with its reason. */
  readonly signal: AbortSignal;
  /** The first task of the job has been handed to a worker. */
  readonly onStart?: () => void;
  /** Some tasks of a stage are done; the job goes on. */
  readonly onProgress?: (progress: Progress) => void;
}

export interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

export interface Load {
  readonly workers: number;
  /** Workers that run a task now. */
  readonly busy: number;
  /** Jobs that have at least one task running or waiting. */
  readonly jobs: number;
  /** Tasks that wait for a worker. */
  readonly waiting: number;
}

export interface Executor {
  /** Run a job; jobs that run at the same time take turns, task by task. */
  run<Result>(job: Job<Result>, context: RunContext): Promise<Result>;
  load(): Load;
  close(): Promise<void>;
}
