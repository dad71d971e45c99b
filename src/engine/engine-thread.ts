/**
 * The thread of the engine: it cuts jobs into tasks, deals them out to the worker threads and writes the
 * answers. Whatever a job does between two stages, the thread that talks HTTP is not held up by it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { Job } from '../../workers/job.js';
import { digestJob } from '../../workers/tasks/digest.js';
import { giveBack } from '../../workers/tasks/rest.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';
import { Lease } from '../../workers/tensor/shared-memory.js';
import { Problem } from '../errors.js';
import {
  type Executor,
  type Progress,
  type RunContext,
  WorkerLostError,
} from '../pool/executor.js';
import { WorkerPool } from '../pool/worker-pool.js';
import { type PhaseTimes, phaseClock, type Timings } from '../solver/phases.js';
import { encodeJson } from '../wire/json.js';
import { encodeMsgpack } from '../wire/msgpack.js';
import {
  type Done,
  type EngineData,
  type Failure,
  type FromEngine,
  LOAD,
  type Order,
  type ProgressReport,
  type ToEngine,
} from './messages.js';
import { Recorder } from './recorder.js';
import { verdictOf } from './verdict.js';
import { jobOf } from './work.js';

const { pool: options, queue, load } = workerData as EngineData;
const port = parentPort!;
const say = (message: FromEngine, transfer: ArrayBuffer[] = []) =>
  port.postMessage(message, transfer);

const running = new Map<number, AbortController>();

/** A job that is long under way says so this often. */
const REPORT_MS = 100;

/** Adds up what a job reports. */
class Reports {
  #tasks: Record<string, number> = {};
  #stage = '';
  #fraction: number | null = null;
  #next = performance.now() + REPORT_MS;

  /** @returns whether it is time to tell. */
  add({ stage, tasks, fraction }: Progress): boolean {
    this.#stage = stage;
    this.#tasks[stage] = (this.#tasks[stage] ?? 0) + tasks;
    // What follows may begin anew: a second plan, the exact kernel after another. What is shown never goes back.
    if (fraction !== null) this.#fraction = Math.max(fraction, this.#fraction ?? 0);
    return performance.now() >= this.#next;
  }

  take(): ProgressReport {
    const report = { tasks: this.#tasks, stage: this.#stage, fraction: this.#fraction };
    this.#tasks = {};
    this.#next = performance.now() + REPORT_MS;
    return report;
  }
}

async function run(pool: Executor, order: Order): Promise<void> {
  const { id, work } = order;
  const controller = new AbortController();
  running.set(id, controller);
  const reports = new Reports();
  const memory = new Lease();
  const waited = performance.timeOrigin + performance.now() - order.start;
  const times: PhaseTimes = { queue: waited, decode: 0, plan: 0, compute: 0, encode: 0 };
  const recorder = new Recorder(order.traced);
  const clock = phaseClock(times, (name, start, end) =>
    recorder.add({ name, tasks: null, start, end }),
  );
  let started = false;
  const context: RunContext = {
    signal: controller.signal,
    owner: order.owner,
    onStart: () => {
      // Whatever phase comes first: it began with the wait for a worker.
      if (!started) clock('queue');
      started = true;
    },
    onStage: (stage) => recorder.add(stage),
    onProgress: (progress) => {
      if (reports.add(progress)) say({ type: 'progress', id, report: reports.take() });
    },
  };
  const attempt = () => pool.run(jobOf(work, { clock, memory }), context);
  try {
    // Its worker may have ended for a reason that lay elsewhere.
    const answer = await attempt().catch(onceMore(attempt));
    const total = performance.timeOrigin + performance.now() - order.start;
    const written = write(order, answer, { ...times, total });
    const done: Done = { ...written, intervals: recorder.intervals };
    say({ type: 'done', id, done, report: reports.take() }, done.bytes ? [done.bytes.buffer] : []);
  } catch (error) {
    say({ type: 'failed', id, failure: failureOf(error) });
  } finally {
    memory.end();
    running.delete(id);
    publishLoad(pool);
  }
}

/** What is done about a lost worker: all of the work once more, and never a third time. */
function onceMore<Answer>(attempt: () => Promise<Answer>): (error: unknown) => Promise<Answer> {
  return async (error) => {
    if (!(error instanceof WorkerLostError)) throw error;
    return attempt().catch((again: unknown) => {
      if (!(again instanceof WorkerLostError)) throw again;
      throw new Problem('ends-workers', `The computation was begun twice. ${again.message}.`);
    });
  };
}

/** The smallest task that a worker can do. */
function* heartbeat(): Job<void> {
  const encoded = encodedTensor('float32', [1], new Uint8Array(new SharedArrayBuffer(4)));
  yield* digestJob(encoded);
}

function write({ form, work }: Order, answer: object, timings: Timings): Omit<Done, 'intervals'> {
  const verdict = verdictOf(answer);
  if (!form) return { answer, verdict, bytes: null, timings };
  // A tensor on its own is the whole answer.
  const whole = work.kind === 'give' ? answer : { ...answer, timings_ms: timings, ...form.extra };
  const bytes = form.json ? encodeJson(whole, form.dialect) : encodeMsgpack(whole, form.dialect);
  return { answer: null, verdict, bytes: ownMemory(bytes), timings };
}

/** Small buffers are parts of a pool, which must not be given away. */
function ownMemory(bytes: Buffer): Uint8Array<ArrayBuffer> {
  return bytes.length < 65_536 ? new Uint8Array(bytes) : (bytes as Uint8Array<ArrayBuffer>);
}

function failureOf(error: unknown): Failure {
  if (error instanceof Problem) {
    const { cause: _, ...options } = error.options;
    return { kind: error.kind, message: error.message, options };
  }
  const { message, stack } = error as Error;
  return { kind: null, message, stack };
}

function publishLoad(pool: Executor): void {
  const figures = pool.load();
  for (const [k, name] of LOAD.entries()) Atomics.store(load, k, figures[name]);
}

const threads = await WorkerPool.start({ ...options, onLoad: publishLoad });
const machines =
  queue && new (await import('../cluster/queue-executor.js')).QueueExecutor(threads, queue);
const pool: Executor = machines ?? threads;
publishLoad(pool);
port.on('message', async (message: ToEngine) => {
  if (message.type === 'run') run(pool, message);
  else if (message.type === 'cancel') running.get(message.id)?.abort();
  else if (message.type === 'ping') {
    const { signal } = new AbortController();
    const beat = pool.run(heartbeat(), { signal, owner: 'heartbeat' });
    beat
      .then(() => say({ type: 'pong', queue: machines?.figures() ?? null }))
      .catch(() => {})
      .finally(() => publishLoad(pool));
  } else if (message.type === 'rest') {
    giveBack();
    await pool.rest();
  } else {
    await pool.close();
    say({ type: 'closed' });
    // Connections to a store that is away would keep the thread.
    process.exit();
  }
});
say({ type: 'ready', kernels: pool.kernels, rates: pool.rates });
