/** Runs jobs on a fixed number of threads, with no service around them. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Job, Task } from '../workers/kernels/job.js';
import type { WasmMode } from '../workers/kernels/wasm/instance.js';
import type { LoadOptions } from '../workers/kernels/wasm/load.js';

export class Threads {
  readonly #workers: Worker[];
  #mode: WasmMode = 'plain';

  private constructor(workers: Worker[]) {
    this.#workers = workers;
  }

  static async start(count: number, options: LoadOptions): Promise<Threads> {
    const url = new URL('thread.js', import.meta.url);
    const workers = Array.from({ length: count }, () => new Worker(url, { workerData: options }));
    const threads = new Threads(workers);
    const modes = await Promise.all(workers.map((worker) => once(worker, 'message')));
    threads.#mode = modes[0]![0] as WasmMode;
    return threads;
  }

  get mode(): WasmMode {
    return this.#mode;
  }

  async run<R, T extends Task>(job: Job<R, T>): Promise<R> {
    let step = job.next([]);
    while (!step.done) step = job.next(await this.#stage(step.value.tasks));
    return step.value;
  }

  /** Each thread takes the next task as soon as it is free. */
  async #stage(tasks: readonly Task[]): Promise<unknown[]> {
    const results: unknown[] = new Array(tasks.length);
    let next = 0;
    const drain = async (worker: Worker) => {
      while (next < tasks.length) {
        const index = next++;
        const answer = once(worker, 'message');
        worker.postMessage(tasks[index]!);
        results[index] = (await answer)[0];
      }
    };
    await Promise.all(this.#workers.map(drain));
    return results;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}
