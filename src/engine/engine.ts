/** Where the work of requests is done: a thread that runs jobs, and the worker threads below it. */
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import { packageFile } from '../../workers/package-file.js';
import { giveBack } from '../../workers/tasks/rest.js';
import type { QueueFigures } from '../cluster/queue-executor.js';
import type { QueueOptions } from '../config.js';
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
} from './messages.js';
import type { Answers, Work, WorkKind } from './work.js';

interface OrderContext {
  /** When it aborts, `answer` rejects with its reason at once. */
  readonly signal: AbortSignal;
  /** null: the answer is wanted as a value. */
  readonly form: AnswerForm | null;
  /** Owners take turns at the workers. */
  readonly owner: string;
  /** When the client began to wait: milliseconds since 1970, fractions included. */
  readonly start: number;
  /** Whether the answer is to say what was done when. */
  readonly traced?: boolean;
  readonly onProgress?: (report: ProgressReport) => void;
}

interface Ordered<Kind extends WorkKind> {
  readonly answer: Promise<Done & { readonly answer: Answers[Kind] }>;
  /** Resolves when nothing of the work runs any more and its memory is free; never rejects. */
  readonly settled: Promise<void>;
}

export interface Engine {
  /** Which build of the kernels' inner loops the workers run. */
  readonly kernels: KernelBuild;
  /** Flops per second of each kernel on one worker; that of the exact one is measured at start. */
  readonly rates: Rates;
  run<Kind extends WorkKind>(work: Work<Kind>, context: OrderContext): Ordered<Kind>;
  load(): Load;
  /** What is known of the queue, some seconds old; null: there is none. */
  queue(): QueueFigures | null;
  /** Whether a worker has answered lately. */
  healthy(): boolean;
  close(): Promise<void>;
}

const THREAD = packageFile('dist/src/engine/engine-thread.js');

/** How often a worker is asked for a sign of life, and how old the last one may be. */
const PING_MS = 2000;
const SILENCE_MS = 10_000;
/** After so long without work the threads give back what they keep for more. */
const REST_MS = 10_000;
/** Between two attempts to begin another thread. */
const AGAIN_MS = 2000;

interface Pending {
  finish(outcome: Done | Error): void;
  readonly onProgress: ((report: ProgressReport) => void) | undefined;
}

export class ThreadedEngine implements Engine {
  readonly #load: Int32Array;
  readonly #options: PoolOptions;
  /** null: it has ended, and another one has not begun. */
  #thread: Worker | null = null;
  #closing = false;
  /** performance.now() of the last sign of life. */
  #heard = 0;
  #asked = false;
  readonly #pending = new Map<number, Pending>();
  readonly #rest = setTimeout(() => this.#giveBack(), REST_MS).unref();
  #next = 0;
  #kernels: KernelBuild = 'wasm-plain';
  #rates: Rates = { exact: 1, lowRank: 1 };

  #queue: QueueFigures | null = null;

  private constructor(
    pool: PoolOptions,
    private readonly queueOptions: QueueOptions | null,
  ) {
    this.#options = pool;
    this.#load = new Int32Array(new SharedArrayBuffer(4 * LOAD.length));
  }

  /** @throws {Error} when the worker threads are not ready in time. */
  static async start(
    options: PoolOptions,
    queue: QueueOptions | null = null,
  ): Promise<ThreadedEngine> {
    const engine = new ThreadedEngine(options, queue);
    await engine.#begin();
    engine.#ping();
    return engine;
  }

  get kernels(): KernelBuild {
    return this.#kernels;
  }

  get rates(): Rates {
    return this.#rates;
  }

  run<Kind extends WorkKind>(work: Work<Kind>, context: OrderContext): Ordered<Kind> {
    const { signal, form, owner, start, traced = false, onProgress } = context;
    if (signal.aborted)
      return { answer: Promise.reject(signal.reason), settled: Promise.resolve() };
    if (!this.#thread) return { answer: Promise.reject(threadLost()), settled: Promise.resolve() };
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
        if (this.#pending.size === 0) this.#rest.refresh();
        signal.removeEventListener('abort', onAbort);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome as Done & { readonly answer: Answers[Kind] });
        settle();
      };
      this.#pending.set(id, { finish, onProgress });
      this.#say({ type: 'run', id, work: work as Work, form, owner, start, traced });
    });
    return { answer, settled };
  }

  load(): Load {
    return Object.fromEntries(
      LOAD.map((name, k) => [name, Atomics.load(this.#load, k)]),
    ) as unknown as Load;
  }

  queue(): QueueFigures | null {
    return this.#queue;
  }

  healthy(): boolean {
    return performance.now() - this.#heard < SILENCE_MS;
  }

  async close(): Promise<void> {
    this.#closing = true;
    if (!this.#thread) return;
    const thread = this.#thread;
    const ended = new Promise((resolve) => thread.once('exit', resolve));
    this.#say({ type: 'close' });
    await ended;
  }

  #say(message: ToEngine): void {
    this.#thread?.postMessage(message);
  }

  async #begin(): Promise<void> {
    const workerData: EngineData = {
      pool: this.#options,
      queue: this.queueOptions,
      load: this.#load,
    };
    const { kernels, rates } = await this.#ready(new Worker(THREAD, { workerData }));
    this.#kernels = kernels;
    this.#rates = rates;
    this.#heard = performance.now();
    this.#asked = false;
  }

  /** @throws {Error} when the thread ends before. */
  #ready(thread: Worker): Promise<Extract<FromEngine, { type: 'ready' }>> {
    this.#thread = thread;
    return new Promise((resolve, reject) => {
      let isReady = false;
      let why = new Error('The thread of the engine ended.');
      thread.on('message', (message: FromEngine) => {
        if (message.type === 'ready') resolve(message);
        else this.#hear(message);
        isReady = true;
      });
      // What follows is the exit.
      thread.on('error', (error: Error) => {
        why = error;
      });
      thread.once('exit', () => {
        this.#thread = null;
        for (const { finish } of [...this.#pending.values()]) finish(threadLost());
        reject(why);
        if (isReady) this.#beginAgain();
      });
    });
  }

  /** The thread of the engine must not end. If it does, for want of memory, another one begins as soon as the system lets it. */
  async #beginAgain(): Promise<void> {
    while (!this.#closing) {
      try {
        return await this.#begin();
      } catch {
        await pause(AGAIN_MS, undefined, { ref: false });
      }
    }
  }

  #giveBack(): void {
    if (this.#pending.size > 0 || this.#closing) return;
    giveBack();
    this.#say({ type: 'rest' });
  }

  #ping(): void {
    const timer = setInterval(() => {
      if (this.#closing) clearInterval(timer);
      else if (!this.#asked) this.#say({ type: 'ping' });
      this.#asked = true;
    }, PING_MS);
    timer.unref();
  }

  #hear(message: FromEngine): void {
    if (message.type === 'pong') {
      this.#heard = performance.now();
      this.#asked = false;
      this.#queue = message.queue;
    }
    if (!('id' in message)) return;
    const pending = this.#pending.get(message.id);
    if (message.type !== 'failed') pending?.onProgress?.(message.report);
    if (message.type === 'done') pending?.finish(message.done);
    if (message.type === 'failed') pending?.finish(errorOf(message.failure));
  }
}

function threadLost(): Problem {
  return new Problem('worker-lost', 'The thread that runs all computations ended.', {
    headers: { 'retry-after': '2' },
  });
}

function errorOf(failure: Failure): Error {
  if (failure.kind) return new Problem(failure.kind, failure.message, failure.options);
  return Object.assign(new Error(failure.message), { stack: failure.stack });
}
