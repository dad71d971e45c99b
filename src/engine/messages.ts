/** What the HTTP thread and the engine's thread say to each other. */
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import type { QueueFigures } from '../cluster/queue-executor.js';
import type { QueueOptions } from '../config.js';
import type { ProblemOptions } from '../errors.js';
import type { PoolOptions } from '../pool/worker-pool.js';
import type { ProblemKind } from '../problem-kinds.js';
import type { Timings } from '../solver/phases.js';
import type { Dialect } from '../wire/tree/tree.js';
import type { Work } from './work.js';

/** How an answer is written. */
export interface AnswerForm {
  readonly json: boolean;
  readonly dialect: Dialect;
  /** Written beside what the job answers. */
  readonly extra: object;
}

/** What was done when: a phase of a request, or a stage of tasks. */
export interface Interval {
  readonly name: string;
  /** Milliseconds since 1970, fractions included. */
  readonly start: number;
  readonly end: number;
  /** Number of tasks of a stage; null: it is a phase. */
  readonly tasks: number | null;
}

export interface Order {
  readonly type: 'run';
  readonly id: number;
  readonly work: Work;
  /** null: the answer is wanted as a value. */
  readonly form: AnswerForm | null;
  readonly owner: string;
  /** Milliseconds since 1970, fractions included: what every thread's clock agrees on. */
  readonly start: number;
  /** Whether the answer is to say what was done when. */
  readonly traced: boolean;
}

export type ToEngine =
  | Order
  | { readonly type: 'cancel'; readonly id: number }
  | { readonly type: 'ping' }
  /** There has been nothing to do for a while. */
  | { readonly type: 'rest' }
  | { readonly type: 'close' };

export type FromEngine =
  | { readonly type: 'ready'; readonly kernels: KernelBuild; readonly rates: Rates }
  | { readonly type: 'progress'; readonly id: number; readonly report: ProgressReport }
  | {
      readonly type: 'done';
      readonly id: number;
      readonly done: Done;
      readonly report: ProgressReport;
    }
  | { readonly type: 'failed'; readonly id: number; readonly failure: Failure }
  /** A task has run in a worker. */
  | { readonly type: 'pong'; readonly queue: QueueFigures | null }
  | { readonly type: 'closed' };

/** What has happened since the last report. */
export interface ProgressReport {
  /** Tasks done, by stage. */
  readonly tasks: Readonly<Record<string, number>>;
  /** The stage that was reported last. */
  readonly stage: string;
  /** Share of the whole job's work that is done; null: not known. */
  readonly fraction: number | null;
}

/** What the log and the metrics tell of an answer. */
export interface Verdict {
  readonly method: 'exact' | 'low_rank' | 'sampled';
  readonly fallback: boolean;
  readonly belowThreshold: boolean;
  /** The largest upper limit of the error over the tensors of the answer; null: nothing was estimated. */
  readonly largestError: number | null;
}

export interface Done {
  /** null: it was written. */
  readonly answer: unknown;
  /** null: it is no kernel's. */
  readonly verdict: Verdict | null;
  /** The answer as the client gets it; null: it was wanted as a value. */
  readonly bytes: Uint8Array<ArrayBuffer> | null;
  readonly timings: Timings;
  /** Empty: not traced. */
  readonly intervals: readonly Interval[];
}

/** Errors lose their class on the way between threads. */
export type Failure =
  | {
      readonly kind: ProblemKind;
      readonly message: string;
      readonly options: Omit<ProblemOptions, 'cause'>;
    }
  | { readonly kind: null; readonly message: string; readonly stack: string | undefined };

export interface EngineData {
  readonly pool: PoolOptions;
  /** null: all parts run on the threads of this process. */
  readonly queue: QueueOptions | null;
  /** Figures of the load in shared memory, in the order of LOAD. */
  readonly load: Int32Array;
}

/** Figures that the engine keeps up to date in shared memory. */
export const LOAD = ['workers', 'busy', 'jobs', 'waiting', 'restarts'] as const;
