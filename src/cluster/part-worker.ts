/** A worker of the queue: runs parts of problems on its own threads. */
import { setTimeout as pause } from 'node:timers/promises';
import { UnrecoverableError, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { type Job, numericFailure, type Task } from '../../workers/job.js';
import type { QueueOptions } from '../config.js';
import type { Executor } from '../pool/executor.js';
import { Blobs, type BlobTraffic } from './blobs.js';
import { connect, connection } from './connection.js';
import { digestOn } from './digest.js';
import { open, seal } from './envelope.js';
import {
  aliveKey,
  CANCEL_CHANNEL,
  cancelledKey,
  MISSING,
  type PartData,
  type PartResult,
  PREFIX,
  queueName,
  UNWANTED,
} from './names.js';

/** Parts at once: one computes while the next is fetched. */
const AT_ONCE = 2;
/** How long a worker without a sign of life keeps its part, and how often that is checked, ms. */
const LOCK_MS = 10_000;
const STALLED_MS = 3000;
/** Workers that may be lost under a part before the part is taken for the cause. */
const MOST_STALLED = 3;
/** How often a worker checks that an API node still waits for its parts, ms. */
const LOOK_MS = 5000;
/** How often the store is pinged while the last parts are finished, ms. */
const SIGN_MS = 500;

interface PartFigures extends BlobTraffic {
  readonly parts: number;
  readonly failures: number;
  readonly running: number;
}

export class PartWorker {
  readonly #blobs: Blobs;
  readonly #store: Redis;
  readonly #listener: Redis;
  readonly #worker: Worker<PartData, PartResult>;
  readonly #running = new Map<AbortController, PartData>();
  readonly #timer: NodeJS.Timeout;
  #parts = 0;
  #failures = 0;

  /** @param jobOf how a part is cut into tasks. */
  constructor(
    private readonly pool: Executor,
    options: QueueOptions,
    private readonly jobOf: (part: Task) => Job<unknown>,
  ) {
    this.#store = connect(options.url);
    this.#listener = connect(options.url);
    this.#blobs = new Blobs(this.#store, { ...options, digest: digestOn(pool) });
    this.#listener.subscribe(CANCEL_CHANNEL).catch(() => {});
    this.#listener.on('message', (_channel, request: string) => {
      this.#stop((data) => data.request === request);
    });
    this.#worker = new Worker<PartData, PartResult>(
      queueName(pool.kernels),
      ({ data }) => this.#run(data),
      {
        connection: connection(options.url),
        prefix: PREFIX,
        concurrency: AT_ONCE,
        lockDuration: LOCK_MS,
        stalledInterval: STALLED_MS,
        maxStalledCount: MOST_STALLED,
        drainDelay: 1,
      },
    );
    this.#worker.on('error', () => {});
    this.#worker.on('completed', () => this.#parts++);
    this.#worker.on('failed', () => this.#failures++);
    this.#timer = setInterval(() => this.#look().catch(() => {}), LOOK_MS);
    this.#timer.unref();
  }

  /** Resolves when it takes parts. */
  async ready(): Promise<void> {
    await this.#worker.waitUntilReady();
  }

  /** Whether the store answers. */
  get healthy(): boolean {
    return this.#store.status === 'ready';
  }

  figures(): PartFigures {
    return {
      ...this.#blobs.traffic,
      parts: this.#parts,
      failures: this.#failures,
      running: this.#running.size,
    };
  }

  /** Finishes the parts that it has begun, as long as there is a store that takes them. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.race([this.#worker.close(), this.#away()]);
    this.#store.disconnect();
    this.#listener.disconnect();
    await this.pool.close();
  }

  /** Resolves when the store does not answer. */
  async #away(): Promise<void> {
    try {
      for (;;) {
        await this.#listener.ping();
        await pause(SIGN_MS);
      }
    } catch {
      // What it was given others do once more.
    }
  }

  async #run(data: PartData): Promise<PartResult> {
    const controller = new AbortController();
    const { signal } = controller;
    this.#running.set(controller, data);
    try {
      // Asked after the part is registered here: a later cancellation is heard.
      const [cancelled, alive] = await Promise.all([
        this.#store.exists(cancelledKey(data.request)),
        this.#store.exists(aliveKey(data.node)),
      ]);
      if (cancelled || !alive) controller.abort(new Error(UNWANTED));
      signal.throwIfAborted();
      // What is fetched for others too goes on.
      const task = await Promise.race([this.#fetch(data), aborted(signal)]);
      const result = await this.pool
        .run(this.jobOf(task), { signal, owner: data.node })
        .catch(numericFailure);
      const sealed = await seal(result, (region) => this.#blobs.put(region));
      return { result: await this.#blobs.put(sealed) };
    } catch (error) {
      // Not to be repeated.
      if (signal.aborted) throw new UnrecoverableError((signal.reason as Error).message);
      if ((error as Error).message === MISSING) throw new UnrecoverableError(MISSING);
      throw error;
    } finally {
      this.#running.delete(controller);
    }
  }

  async #fetch({ task }: PartData): Promise<Task> {
    const envelope = await this.#blobs.getAll(task);
    return (await open(envelope, (part) => this.#blobs.get(part))) as Task;
  }

  #stop(whose: (data: PartData) => boolean): void {
    for (const [controller, data] of this.#running) {
      if (whose(data)) controller.abort(new Error(UNWANTED));
    }
  }

  /** An API node that has died cannot cancel. */
  async #look(): Promise<void> {
    const nodes = [...new Set([...this.#running.values()].map(({ node }) => node))];
    for (const node of nodes) {
      if (!(await this.#store.exists(aliveKey(node)))) this.#stop((data) => data.node === node);
    }
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
