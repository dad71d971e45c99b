/** The worker threads of this process, which Piscina runs: how they begin, rest and end. */
import type { EventEmitter } from 'node:events';
import type { MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { Task } from '../../workers/job.js';
import { type Kernels, relaxedSimd } from '../../workers/kernels/inner/builds.js';
import { chooseKernels, type KernelChoice } from '../../workers/kernels/inner/load.js';
import { packageFile } from '../../workers/package-file.js';
import { stagesDiffer } from '../../workers/tasks/check-stages.js';
import { keepCode, letHeapsGrow, type RestTask } from '../../workers/tasks/rest.js';
import type { WarmUpTask } from '../../workers/tasks/warm-up.js';
import { keepBytes } from '../../workers/tensor/shared-memory.js';
import type { Timeslice, TimesliceOutcome } from '../../workers/timeslice.js';
import { StageRun } from './stage-run.js';

const WORKER_FILE = packageFile('dist/workers/worker.js').href;

export interface ThreadOptions {
  /** Of the JavaScript heap of each thread. */
  readonly heapMiB?: number;
  /** That the thread of the pool keeps for its next work. */
  readonly keptBytes?: number;
  /** By default the widest. */
  readonly kernels?: KernelChoice;
}

/**
 * What all threads have in common, before the first of them.
 *
 * @throws {Error} when the kernels that were asked for cannot be used.
 */
export function prepareThreads({ keptBytes, kernels = 'auto' }: ThreadOptions): Kernels {
  // On Node 20 this sets a V8 flag, which has to be done before a thread compiles.
  relaxedSimd();
  letHeapsGrow();
  keepCode();
  if (keptBytes) keepBytes(keptBytes);
  return chooseKernels(kernels, stagesDiffer);
}

export class Threads {
  readonly #piscina: Piscina<readonly Timeslice[], readonly TimesliceOutcome[]>;
  #restarts = 0;

  constructor(count: number, kernels: Kernels, { heapMiB }: ThreadOptions) {
    this.#piscina = new Piscina<readonly Timeslice[], readonly TimesliceOutcome[]>({
      filename: WORKER_FILE,
      minThreads: count,
      maxThreads: count,
      // A timeslice owns its worker: whose it is, the queue of the pool says.
      concurrentTasksPerWorker: 1,
      recordTiming: false,
      workerData: kernels,
      ...(heapMiB && { resourceLimits: { maxOldGenerationSizeMb: heapMiB } }),
    });
    // A thread that ended while it was idle: another has begun. Without a listener the error would end this thread.
    this.#piscina.on('error', () => this.#restarts++);
  }

  /** Threads that have ended, and in whose place others have begun. */
  get restarts(): number {
    return this.#restarts;
  }

  /**
   * One task for each thread; none returns before all have begun, so each thread gets one. A thread that cannot load
   * hangs for ever.
   */
  async warmUp(): Promise<void> {
    const arrived = new Int32Array(new SharedArrayBuffer(4));
    const expected = this.#piscina.threads.length;
    const task: WarmUpTask = { kernel: 'warm_up', arrived, expected };
    const outcomes = await this.#onEach('warm-up', task);
    const failed = outcomes.find(({ status }) => status !== 'done');
    if (failed) throw new Error(`A warm-up task ${failed.status}`);
  }

  /**
   * Timeslices for one thread.
   *
   * @param killer ends the thread by an event 'abort'. As good as an AbortSignal for one listener, at a tenth of its cost.
   * @param ports what goes with them.
   * @throws {Error} when the thread ends.
   */
  async run(
    timeslices: readonly Timeslice[],
    killer: EventEmitter,
    ports: readonly MessagePort[],
  ): Promise<readonly TimesliceOutcome[]> {
    try {
      const options = { signal: killer, transferList: [...ports] };
      return await this.#piscina.run(timeslices, options);
    } catch (error) {
      this.#restarts++;
      throw error;
    }
  }

  async rest(): Promise<void> {
    const task: RestTask = { kernel: 'rest' };
    // Who closes the pool meanwhile ends its threads, and nothing is lost.
    await this.#onEach('rest', task).catch(() => {});
  }

  close(): Promise<void> {
    return this.#piscina.close();
  }

  /** Whatever they do. */
  destroy(): Promise<void> {
    return this.#piscina.destroy();
  }

  /** Threads that are idle get one each. */
  #onEach(name: string, task: Task): Promise<TimesliceOutcome[]> {
    return Promise.all(
      this.#piscina.threads.map(async () => {
        // Nobody cancels it. A signal that all shared would keep every one of them.
        const { signal } = new AbortController();
        const run = new StageRun({ name, tasks: [task] }, { signal });
        const [outcome] = await this.#piscina.run([run.begin()!]);
        return outcome!;
      }),
    );
  }
}
