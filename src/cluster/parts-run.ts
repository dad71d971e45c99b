/** The parts of one request on their way through the queue. */
import { randomUUID } from 'node:crypto';
import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { numericFailure, type Stage, type Task } from '../../workers/job.js';
import type { Executor, RunContext } from '../pool/executor.js';
import type { Blobs } from './blobs.js';
import { timely } from './connection.js';
import { open, seal } from './envelope.js';
import { failureOf, faultOf, NoQueueError, storeFull } from './faults.js';
import {
  type BlobName,
  CANCEL_CHANNEL,
  cancelledKey,
  MISSING,
  type PartData,
  type PartResult,
} from './names.js';
import type { Regions } from './regions.js';

/** How often a part is sent when the store keeps losing its tensors. */
const MOST_SENDS = 5;
/** How long parts wait for a store that does not answer, and for workers where there are none, ms. */
const PATIENCE_MS = 10_000;
/** A part that takes so much longer than others is given to a second worker; never before the least time, ms. */
const STRAGGLER = 4;
const STRAGGLER_LEAST_MS = 5000;
/** A part counts as lost when the queue has not had it so many times in a row: its answer may be on the way. */
const LOST_LOOKS = 3;

interface Waiting {
  /** Names of its jobs: the second is the straggler's twin. */
  readonly ids: string[];
  readonly data: PartData;
  /** performance.now() when a worker began; null: none has. */
  began: number | null;
  notFound: number;
  resolve(result: PartResult): void;
  reject(error: Error): void;
}

/** The API node that it belongs to. */
export interface Home {
  readonly node: string;
  readonly queue: Queue;
  /** For what must not wait behind tensors. */
  readonly signals: Redis;
  readonly blobs: Blobs;
  readonly pool: Executor;
  readonly options: { readonly ttlMs: number };
  /** Without it workers leave its parts. */
  sayAlive(): Promise<void>;
}

export class PartsRun {
  readonly #request = randomUUID();
  /** Parts that have no result yet, by the names of their jobs. */
  readonly #waiting = new Map<string, Waiting>();
  /** Parts are sent, and run here, one after the other. */
  #sending: Promise<unknown> = Promise.resolve();
  #local: Promise<unknown> = Promise.resolve();
  /** Regions that are in the store. */
  readonly #sent = new Map<Uint8Array, BlobName>();
  readonly #durations: number[] = [];
  #done = 0;
  #jobs = 0;
  #silentSince: number | null = null;
  /** The queue could not be used: parts that are not sent yet do not wait for it again. */
  #gaveUp = false;
  /** Parts that were run by this node. */
  here = 0;

  constructor(
    private readonly home: Home,
    private readonly stage: Stage,
    private readonly context: RunContext,
    /** The shared arrays of the tasks. */
    private readonly regions: Regions,
  ) {}

  /** The results, in the order of the tasks. */
  async results(): Promise<unknown[]> {
    const { signal } = this.context;
    signal.throwIfAborted();
    let stop!: (reason: unknown) => void;
    const stopped = new Promise<never>((_, reject) => {
      stop = reject;
    });
    const onAbort = () => stop(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    const controller = new AbortController();
    try {
      const all = this.stage.tasks.map((task) => this.#part(task, controller.signal));
      return await Promise.race([Promise.all(all), stopped]);
    } catch (error) {
      controller.abort(error);
      await this.#cancel(error as Error);
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  has(jobId: string): boolean {
    return this.#waiting.has(jobId);
  }

  began(jobId: string): void {
    const part = this.#waiting.get(jobId);
    if (part) part.began ??= performance.now();
    this.context.onStart?.();
  }

  completed(jobId: string, result: unknown): void {
    const part = this.#waiting.get(jobId);
    const value = typeof result === 'string' ? JSON.parse(result) : result;
    if (part?.began) this.#durations.push(performance.now() - part.began);
    part?.resolve(value as PartResult);
  }

  failed(jobId: string, reason: string): void {
    const part = this.#waiting.get(jobId);
    // Its twin may still be done.
    if (part && part.ids.length > 1) {
      part.ids.splice(part.ids.indexOf(jobId), 1);
      this.#waiting.delete(jobId);
    } else part?.reject(failureOf(reason));
  }

  /** Called once a second: finds parts that the store has lost, that no worker takes, or that take too long. */
  async watch(workers: number): Promise<void> {
    for (const part of new Set(this.#waiting.values())) {
      const [id] = part.ids as [string];
      try {
        const state = await timely(this.home.queue.getJobState(id));
        this.#silentSince = null;
        part.notFound = state === 'unknown' ? part.notFound + 1 : 0;
        if (part.notFound >= LOST_LOOKS) part.reject(new Error(MISSING));
        else if (workers === 0 && state === 'waiting') part.reject(new NoQueueError());
        else if (state === 'active' && this.#isStraggler(part)) await this.#add(part);
      } catch {
        this.#silentSince ??= performance.now();
        if (performance.now() - this.#silentSince > PATIENCE_MS) part.reject(new NoQueueError());
      }
    }
  }

  #isStraggler({ began, ids }: Waiting): boolean {
    if (began === null || ids.length > 1 || this.#durations.length === 0) return false;
    const usual = [...this.#durations].sort((a, b) => a - b)[this.#durations.length >> 1]!;
    return performance.now() - began > Math.max(STRAGGLER_LEAST_MS, STRAGGLER * usual);
  }

  async #part(task: Task, signal: AbortSignal): Promise<unknown> {
    const { blobs } = this.home;
    for (let sends = 1; ; sends++) {
      try {
        const name = await this.#inTurn(async () => {
          signal.throwIfAborted();
          if (this.#gaveUp) throw new NoQueueError();
          const put = (region: Uint8Array) => this.#put(region, signal);
          const envelope = await seal(task, put, this.regions);
          return blobs.put(envelope);
        });
        signal.throwIfAborted();
        const { result } = await this.#wait(name);
        const value = await open(await blobs.takeAll(result), (part) => blobs.take(part));
        this.#advance();
        return value;
      } catch (error) {
        signal.throwIfAborted();
        const fault = faultOf(error as Error);
        if (fault === 'full') throw storeFull();
        if (fault === 'missing' && sends < MOST_SENDS) {
          this.#sent.clear();
          continue;
        }
        if (fault === 'lost') throw error;
        this.#gaveUp ||= fault === 'away';
        return this.#runHere(task, signal);
      }
    }
  }

  /** A region that several parts have is hashed and sent once. */
  async #put(region: Uint8Array, signal: AbortSignal): Promise<BlobName> {
    const name = this.#sent.get(region) ?? (await this.home.blobs.put(region, signal));
    this.#sent.set(region, name);
    return name;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#sending.catch(() => {}).then(work);
    this.#sending = mine;
    return mine;
  }

  async #runHere(task: Task, signal: AbortSignal): Promise<unknown> {
    const { pool } = this.home;
    const mine = this.#local
      .catch(() => {})
      .then(() => {
        signal.throwIfAborted();
        return pool.run(this.stage.jobOf!(task), { ...this.context, signal }).catch(numericFailure);
      });
    this.#local = mine;
    const value = await mine;
    this.here++;
    this.#advance();
    return value;
  }

  #advance(): void {
    this.#done++;
    const { span, tasks, name } = this.stage;
    const share = this.#done / tasks.length;
    const fraction = span ? span[0] + share * (span[1] - span[0]) : share;
    this.context.onProgress?.({ stage: name, tasks: 1, fraction });
  }

  /** Until it is done, or `#cancel` rejects it. */
  #wait(task: BlobName): Promise<PartResult> {
    return new Promise<PartResult>((resolve, reject) => {
      const data: PartData = { request: this.#request, node: this.home.node, task };
      const over = () => {
        for (const id of part.ids) this.#waiting.delete(id);
        this.#remove(part.ids);
      };
      const part: Waiting = {
        ids: [],
        data,
        began: null,
        notFound: 0,
        resolve: (result) => {
          over();
          resolve(result);
        },
        reject: (error) => {
          over();
          reject(error);
        },
      };
      this.#add(part).catch(part.reject);
    });
  }

  async #add(part: Waiting): Promise<void> {
    const jobId = `${this.#request}-${this.#jobs++}`;
    part.ids.push(jobId);
    this.#waiting.set(jobId, part);
    await this.home.sayAlive();
    await timely(this.home.queue.add('part', part.data, { jobId }));
  }

  /** Removes waiting jobs. Running ones are stopped by `#cancel`, or their results are ignored. */
  #remove(ids: readonly string[]): void {
    for (const id of ids) this.home.queue.remove(id).catch(() => {});
  }

  /** Tells all workers first, so that running parts stop even if waiting ones cannot be removed. */
  async #cancel(reason: Error): Promise<void> {
    const { signals, options } = this.home;
    const told = Promise.all([
      signals.set(cancelledKey(this.#request), 1, 'PX', options.ttlMs),
      signals.publish(CANCEL_CHANNEL, this.#request),
    ]);
    for (const part of new Set(this.#waiting.values())) part.reject(reason);
    // Without the message workers notice when they check that this node is alive.
    await told.catch(() => {});
  }
}
