/**
 * The executor of an API node: jobs run on its own worker threads, but the parts of large problems go to the workers
 * of a queue (BullMQ, which repeats what fails or stalls). Where the queue is of no use they run here: the answer is the
 * same, bit by bit.
 */
import { randomUUID } from 'node:crypto';
import { Queue, QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Job, LargeTask, Stage } from '../../workers/job.js';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import type { QueueOptions } from '../config.js';
import type { Executor, Load, RunContext } from '../pool/executor.js';
import { runParts } from '../pool/parts.js';
import { Blobs, type BlobTraffic } from './blobs.js';
import { connect, connection, timely } from './connection.js';
import { digestOn } from './digest.js';
import { aliveKey, PREFIX, queueName } from './names.js';
import { type Home, PartsRun } from './parts-run.js';
import { Regions } from './regions.js';

/** How often parts are looked after, ms. */
const WATCH_MS = 1000;
/** How long an API node counts as alive without a sign, ms. */
const ALIVE_MS = 15_000;
/** Entries of BullMQ's stream of events: each waiting node has read them within milliseconds. */
const EVENTS = 2000;
/** Bytes a second to a worker, and seconds of messages: what sending a part costs. */
const TRANSFER_RATE = 5e8;
const MESSAGE_SECONDS = 0.01;
/** Sending a part may cost this share of its computation. */
const WORTH = 0.5;

export interface QueueFigures extends BlobTraffic {
  readonly workers: number;
  readonly waiting: number;
  readonly active: number;
  /** Parts that were done by workers, and here though there is a queue. */
  readonly partsSent: number;
  readonly partsHere: number;
}

export class QueueExecutor implements Executor, Home {
  readonly node = randomUUID();
  readonly queue: Queue;
  readonly blobs: Blobs;
  readonly store: Redis;
  readonly signals: Redis;
  readonly #events: QueueEvents;
  readonly #runs = new Set<PartsRun>();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #workers = 0;
  #counts = { waiting: 0, active: 0 };
  #parts = { partsSent: 0, partsHere: 0 };

  constructor(
    readonly pool: Executor,
    readonly options: QueueOptions,
  ) {
    const name = queueName(pool.kernels);
    this.store = connect(options.url);
    this.signals = connect(options.url);
    this.blobs = new Blobs(this.store, { ...options, digest: digestOn(pool) });
    this.queue = new Queue(name, {
      connection: connection(options.url),
      prefix: PREFIX,
      streams: { events: { maxLen: EVENTS } },
      defaultJobOptions: {
        attempts: 3,
        backoff: { type: 'exponential', delay: 200 },
        removeOnComplete: true,
        removeOnFail: true,
      },
    });
    this.#events = new QueueEvents(name, { connection: connection(options.url), prefix: PREFIX });
    this.queue.on('error', () => {});
    this.#events.on('error', () => {});
    const tell = (jobId: string, of: (run: PartsRun) => void) => {
      for (const run of this.#runs) if (run.has(jobId)) of(run);
    };
    this.#events.on('active', ({ jobId }) => tell(jobId, (run) => run.began(jobId)));
    this.#events.on('completed', ({ jobId, returnvalue }) =>
      tell(jobId, (run) => run.completed(jobId, returnvalue as unknown)),
    );
    this.#events.on('failed', ({ jobId, failedReason }) =>
      tell(jobId, (run) => run.failed(jobId, failedReason)),
    );
    this.#watch();
  }

  get kernels(): KernelBuild {
    return this.pool.kernels;
  }

  get rates(): Rates {
    return this.pool.rates;
  }

  load(): Load {
    return this.pool.load();
  }

  figures(): QueueFigures {
    return { ...this.blobs.traffic, ...this.#counts, ...this.#parts, workers: this.#workers };
  }

  run<Result>(job: Job<Result>, context: RunContext): Promise<Result> {
    return this.pool.run(job, { ...context, runParts: (stage, of) => this.#runStage(stage, of) });
  }

  rest(): Promise<void> {
    return this.pool.rest();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const ends = [this.signals.del(aliveKey(this.node)), this.#events.close(), this.queue.close()];
    await Promise.allSettled(ends.map((end) => timely<unknown>(end)));
    this.store.disconnect();
    this.signals.disconnect();
    await this.pool.close();
  }

  async #runStage(stage: Stage, context: RunContext): Promise<unknown[]> {
    const regions = new Regions(stage.tasks);
    if (!this.#pays(stage, regions.bytes)) {
      this.#parts.partsHere += stage.tasks.length;
      return runParts(stage, context, (part, of) => this.pool.run(stage.jobOf!(part), of));
    }
    const run = new PartsRun(this, stage, context, regions);
    this.#runs.add(run);
    try {
      return await run.results();
    } finally {
      this.#runs.delete(run);
      this.#parts.partsSent += stage.tasks.length - run.here;
      this.#parts.partsHere += run.here;
    }
  }

  /** A full store takes no new key, but lets an old one live on. */
  async sayAlive(): Promise<void> {
    const key = aliveKey(this.node);
    if ((await this.signals.pexpire(key, ALIVE_MS)) === 0) {
      await this.signals.set(key, 1, 'PX', ALIVE_MS);
    }
  }

  /** Whether there are workers, and what they are sent is less than what they do. @param bytes of all large arrays. */
  #pays({ tasks }: Stage, bytes: number): boolean {
    if (this.#workers === 0 || this.store.status !== 'ready') return false;
    const seconds =
      tasks.reduce((sum, task) => sum + (task as LargeTask).flops, 0) / this.rates.exact;
    return MESSAGE_SECONDS * tasks.length + bytes / TRANSFER_RATE < WORTH * seconds;
  }

  /** Says that this node is alive, counts the workers, and looks after its parts. */
  async #watch(): Promise<void> {
    try {
      const [workers, counts] = await timely(
        Promise.all([
          this.queue.getWorkersCount(),
          this.queue.getJobCounts('wait', 'active'),
          this.sayAlive(),
        ]),
      );
      this.#workers = workers;
      this.#counts = { waiting: counts.wait ?? 0, active: counts.active ?? 0 };
    } catch {
      this.#workers = 0;
    }
    for (const run of this.#runs) await run.watch(this.#workers);
    if (!this.#closed) this.#timer = setTimeout(() => this.#watch(), WATCH_MS);
  }
}
