/** Where the work of requests is done: a thread that runs jobs, and the worker threads below it. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import { Problem } from '../errors.js';
import type { Load } from '../pool/executor.js';
import type { PoolOptions } from '../pool/worker-pool.js';
import {
  type AnswerForm,
  type Done,
  type EngineData,
  type Failure,
  type FromEngine,
  LOAD,
  type ProgressReport,
  type ToEngine,
} from './engine-messages.js';
import type { Answers, Work, WorkKind } from './work.js';

export interface OrderContext {
  /** When it aborts, `answer` rejects with its reason at once. */
  readonly signal: AbortSignal;
  /** null: the answer is wanted as a value. */
  readonly form: AnswerForm | null;
  readonly onProgress?: (report: ProgressReport) => void;
}

export interface Ordered<Kind extends WorkKind> {
  readonly answer: Promise<Done & { readonly answer: Answers[Kind] }>;
  /** Resolves when nothing of the work runs any more and its memory is free; never rejects. */
  readonly settled: Promise<void>;
}

export interface Engine {
  /** Which build of the kernels' inner loops the workers run. */
  readonly kernels: KernelBuild;
  /** Flops per second of each kernel on one worker, measured at start. */
  readonly rates: Rates;
  run<Kind extends WorkKind>(work: Work<Kind>, context: OrderContext): Ordered<Kind>;
  load(): Load;
  close(): Promise<void>;
}

const THREAD = new URL('./engine-thread.js', import.meta.url);

interface Pending {
  finish(outcome: Done | Error): void;
  readonly onProgress: ((report: ProgressReport) => void) | undefined;
}

export class ThreadedEngine implements Engine {
  readonly #thread: Worker;
  readonly #load: Int32Array;
  readonly #pending = new Map<number, Pending>();
  #next = 0;
  #kernels: KernelBuild = 'wasm-plain';
  #rates: Rates = { exact: 1, lowRank: 1 };

  private constructor(pool: PoolOptions) {
    this.#load = new Int32Array(new SharedArrayBuffer(4 * LOAD.length));
    const workerData: EngineData = { pool, load: this.#load };
    this.#thread = new Worker(THREAD, { workerData });
    this.#thread.on('message', (message: FromEngine) => this.#hear(message));
  }

  /** @throws {Error} when the worker threads are not ready in time. */
  static async start(options: PoolOptions): Promise<ThreadedEngine> {
    const engine = new ThreadedEngine(options);
    const [{ kernels, rates }] = (await once(engine.#thread, 'message')) as [
      Extract<FromEngine, { type: 'ready' }>,
    ];
    engine.#kernels = kernels;
    engine.#rates = rates;
    return engine;
  }

  get kernels(): KernelBuild {
    return this.#kernels;
  }

  get rates(): Rates {
    return this.#rates;
  }

  run<Kind extends WorkKind>(work: Work<Kind>, context: OrderContext): Ordered<Kind> {
    const { signal, form, onProgress } = context;
    if (signal.aborted)
      return { answer: Promise.reject(signal.reason), settled: Promise.resolve() };
    const id = this.#next++;
    let settle!: () => void;
    const settled = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const answer = new Promise<Done & { readonly answer: Answers[Kind] }>((resolve, reject) => {
      const onAbort = () => {
        this.#say({ type: 'cancel', id });
        reject(signal.reason);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      const finish = (outcome: Done | Error) => {
        this.#pending.delete(id);
        signal.removeEventListener('abort', onAbort);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome as Done & { readonly answer: Answers[Kind] });
        settle();
      };
      this.#pending.set(id, { finish, onProgress });
      const start = performance.timeOrigin + performance.now();
      this.#say({ type: 'run', id, work: work as Work, form, start });
    });
    return { answer, settled };
  }

  load(): Load {
    return Object.fromEntries(
      LOAD.map((name, k) => [name, Atomics.load(this.#load, k)]),
    ) as unknown as Load;
  }

  async close(): Promise<void> {
    this.#say({ type: 'close' });
    await once(this.#thread, 'exit');
  }

  #say(message: ToEngine): void {
    this.#thread.postMessage(message);
  }

  #hear(message: FromEngine): void {
    if (!('id' in message)) return;
    const pending = this.#pending.get(message.id);
    if (message.type !== 'failed') pending?.onProgress?.(message.report);
    if (message.type === 'done') pending?.finish(message.done);
    if (message.type === 'failed') pending?.finish(errorOf(message.failure));
  }
}

function errorOf(failure: Failure): Error {
  if (failure.kind) return new Problem(failure.kind, failure.message, failure.options);
  return Object.assign(new Error(failure.message), { stack: failure.stack });
}
