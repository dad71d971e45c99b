/** The executor on worker threads of this process: Piscina runs the threads, the turns are ours. */
import { Piscina } from 'piscina';
import type { Job, Stage, Task } from '../../workers/job.js';
import { type Kernels, relaxedSimd } from '../../workers/kernels/inner/builds.js';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import { chooseKernels, type KernelChoice } from '../../workers/kernels/inner/load.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import type { CalibrateTask } from '../../workers/tasks/calibrate.js';
import type { WarmUpTask } from '../../workers/tasks/warm-up.js';
import type { Turn, TurnOutcome } from '../../workers/turn.js';
import type { Executor, Load, RunContext } from './executor.js';
import { FairQueue } from './fair-queue.js';
import { StageRun } from './stage-run.js';

const WORKER_FILE = new URL('../../workers/worker.js', import.meta.url).href;

export interface PoolOptions {
  readonly workers: number;
  readonly warmUpMs: number;
  /** Called whenever `load` has changed. */
  readonly onLoad?: (pool: WorkerPool) => void;
  /** By default the fastest. */
  readonly kernels?: KernelChoice;
}

export class WorkerPool implements Executor {
  readonly #piscina: Piscina<Turn, TurnOutcome>;
  readonly #workers: number;
  readonly #queue = new FairQueue<StageRun>();
  readonly #onLoad: (pool: WorkerPool) => void;
  #busy = 0;
  #jobs = 0;

  readonly #kernels: Kernels;
  #rates: Rates = { exact: 1, lowRank: 1 };

  private constructor({ workers, onLoad = () => {} }: PoolOptions, kernels: Kernels) {
    this.#workers = workers;
    this.#kernels = kernels;
    this.#onLoad = onLoad;
    this.#piscina = new Piscina<Turn, TurnOutcome>({
      filename: WORKER_FILE,
      minThreads: workers,
      maxThreads: workers,
      // A turn owns its worker: whose it is, `#queue` says.
      concurrentTasksPerWorker: 1,
      workerData: kernels,
    });
  }

  /**
   * Start the threads and run one warm-up task in each of them.
   *
   * @throws {Error} when that takes longer than `warmUpMs`: a worker that cannot load hangs for ever; or when
   *   the kernels that were asked for cannot be used.
   */
  static async start(options: PoolOptions): Promise<WorkerPool> {
    const { workers, warmUpMs, kernels = 'auto' } = options;
    // On Node 20 this sets a V8 flag, which has to be done before a thread compiles.
    relaxedSimd();
    const pool = new WorkerPool(options, chooseKernels(kernels));
    const signal = AbortSignal.timeout(warmUpMs);
    try {
      const ready = async () => {
        await pool.run(warmUpJob(workers), { signal });
        pool.#rates = await pool.run(calibrateJob(), { signal });
      };
      await Promise.race([ready(), aborted(signal)]);
    } catch (error) {
      await pool.#piscina.destroy();
      const reason = signal.aborted ? `not ready within ${warmUpMs} ms` : String(error);
      throw new Error(`The worker threads did not start: ${reason}`, { cause: error });
    }
    return pool;
  }

  async run<Result>(job: Job<Result>, context: RunContext): Promise<Result> {
    this.#jobs++;
    try {
      let step = job.next([]);
      while (!step.done) {
        step = job.next(await this.#runStage(step.value, context));
      }
      return step.value;
    } finally {
      this.#jobs--;
      job.return(undefined as Result);
    }
  }

  get kernels(): KernelBuild {
    return this.#kernels.build;
  }

  get rates(): Rates {
    return this.#rates;
  }

  load(): Load {
    return {
      workers: this.#workers,
      busy: this.#busy,
      jobs: this.#jobs,
      waiting: this.#queue.waiting,
    };
  }

  async close(): Promise<void> {
    await this.#piscina.close();
  }

  async #runStage(stage: Stage, context: RunContext): Promise<unknown[]> {
    context.signal.throwIfAborted();
    const run = new StageRun(stage, context);
    this.#queue.add(run);
    this.#pump();
    return run.results;
  }

  /** Give turns as long as a worker is free. */
  #pump(): void {
    while (this.#busy < this.#workers) {
      const run = this.#queue.take();
      if (!run) break;
      const turn = run.begin();
      if (turn) this.#give(run, turn);
    }
    this.#onLoad(this);
  }

  async #give(run: StageRun, turn: Turn): Promise<void> {
    this.#busy++;
    const outcome = await this.#piscina.run(turn).catch(
      (error: Error): TurnOutcome => ({
        status: 'failed',
        message: `A worker thread died: ${error.message}`,
        stack: error.stack,
      }),
    );
    this.#busy--;
    run.settled(outcome);
    this.#pump();
  }
}

/** One task for each worker; none returns before all have begun, so each worker gets one. */
function* warmUpJob(workers: number): Job<void> {
  const arrived = new Int32Array(new SharedArrayBuffer(4));
  const task: WarmUpTask = { kernel: 'warm_up', arrived, expected: workers };
  yield { name: 'warm-up', tasks: Array<Task>(workers).fill(task) };
}

function* calibrateJob(): Job<Rates> {
  const task: CalibrateTask = { kernel: 'calibrate' };
  const [rates] = yield { name: 'calibrate', tasks: [task] };
  return rates as Rates;
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
