/** Where jobs run: worker threads, or those of many machines behind a queue. Routes and planners see only this. */
import type { Job, Stage } from '../../workers/job.js';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';

export interface RunContext {
  /** When it aborts, the job is stopped within milliseconds and `run` rejects with its reason. */
  readonly signal: AbortSignal;
  /** Owners take turns, and so do the jobs of one owner. Absent: one owner for all jobs without one. */
  readonly owner?: string;
  /** Tasks of the job have been handed to a worker: a first time, and again and again. */
  readonly onStart?: () => void;
  /** All tasks of a stage are done; `start` and `end` are of performance.now(). */
  readonly onStage?: (stage: { name: string; tasks: number; start: number; end: number }) => void;
  /** Tasks are done; the job goes on. */
  readonly onProgress?: (progress: Progress) => void;
  /** Runs the stages whose tasks are jobs. Absent: here, one task after the other. */
  readonly runParts?: (stage: Stage, context: RunContext) => Promise<unknown[]>;
}

export interface Progress {
  /** Name of the stage that the tasks belong to. */
  readonly stage: string;
  /** How many they are. */
  readonly tasks: number;
  /** Share of the whole job's work that is done; null in stages that do not say. */
  readonly fraction: number | null;
}

export interface Load {
  readonly workers: number;
  /** Workers that run tasks now. */
  readonly busy: number;
  /** Jobs that have at least one task running or waiting. */
  readonly jobs: number;
  /** Tasks that wait for a worker. */
  readonly waiting: number;
  /** Workers that ended and were replaced. */
  readonly restarts: number;
}

/** A worker ended under a task: by itself, for want of memory, or since it hung. */
export class WorkerLostError extends Error {
  override readonly name = 'WorkerLostError';
}

export interface Executor {
  /** Which build of the inner loops the workers run. */
  readonly kernels: KernelBuild;
  /** Flops per second of each kernel on one worker; that of the exact one is measured at start. */
  readonly rates: Rates;
  /** Run a job; jobs that run at the same time take turns of a few milliseconds. */
  run<Result>(job: Job<Result>, context: RunContext): Promise<Result>;
  load(): Load;
  /** There has been no work for a while: what is kept for more is given back. */
  rest(): Promise<void>;
  close(): Promise<void>;
}
