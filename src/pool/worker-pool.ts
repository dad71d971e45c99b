/** The executor on worker threads of this process: it deals out their time. */
import { EventEmitter } from 'node:events';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import type { Job, Stage, Task } from '../../workers/job.js';
import type { KernelBuild } from '../../workers/kernels/inner/instance.js';
import type { Rates } from '../../workers/kernels/low-rank/plan/cost.js';
import type { CalibrateTask } from '../../workers/tasks/calibration/calibrate.js';
import { disband, type JoinTask, lose, type Others, teamWords } from '../../workers/team.js';
import { TIMESLICE_MS, type Timeslice, type TimesliceOutcome } from '../../workers/timeslice.js';
import type { Executor, Load, RunContext } from './executor.js';
import { FairQueue } from './fair-queue.js';
import { runParts } from './parts.js';
import { StageRun } from './stage-run.js';
import { prepareThreads, type ThreadOptions, Threads } from './threads.js';
import { type TimesliceWatch, watchTimeslice } from './timeslice-watch.js';

export interface PoolOptions extends ThreadOptions {
  readonly workers: number;
  readonly warmUpMs: number;
  /** A worker that shows no sign of life for so long is replaced. Absent: never. */
  readonly hungMs?: number;
  /** Called whenever `load` has changed. */
  readonly onLoad?: (pool: WorkerPool) => void;
  /** Absent: they are measured, which takes a second. */
  readonly rates?: Rates;
}

/** After so much more than its timeslice a task is one that others do not wait for. */
const OVERDUE_MS = 5 * TIMESLICE_MS;
/** Workers that join another: what it says to each of them takes a part of its time. */
const MOST_OTHERS = 3;
/** Brief stages that a worker is given at once, where as many wait: threads then say less to each other. */
const TOGETHER = 4;

interface Given {
  readonly run: StageRun;
  readonly timeslice: Timeslice;
}

export class WorkerPool implements Executor {
  readonly #options: PoolOptions;
  readonly #threads: Threads;
  readonly #queue = new FairQueue<StageRun>();
  /** Timeslices that take much too long now. */
  #overdue = 0;
  /** Jobs whose tasks do: they get no place but their own. */
  readonly #slow = new WeakSet<RunContext>();
  /** Jobs that have lost a worker: they share none with others, which are not to be lost with them twice. */
  readonly #suspect = new WeakSet<RunContext>();
  #busy = 0;
  #jobs = 0;
  #rates: Rates = { exact: 1, lowRank: 1 };

  private constructor(
    options: PoolOptions,
    readonly kernels: KernelBuild,
    threads: Threads,
  ) {
    this.#options = options;
    this.#threads = threads;
  }

  /**
   * Start the threads and run one warm-up task in each of them.
   *
   * @throws {Error} when that takes longer than `warmUpMs`: a worker that cannot load hangs for ever; or when
   *   the kernels that were asked for cannot be used.
   */
  static async start(options: PoolOptions): Promise<WorkerPool> {
    const { workers, warmUpMs } = options;
    const kernels = prepareThreads(options);
    const signal = AbortSignal.timeout(warmUpMs);
    let threads: Threads | undefined;
    try {
      // One more than is busy: it runs where tasks that cannot be cut hold the others.
      threads = new Threads(workers + 1, kernels, options);
      const pool = new WorkerPool(options, kernels.build, threads);
      await Promise.race([pool.#ready(signal), aborted(signal)]);
      return pool;
    } catch (error) {
      await threads?.destroy();
      const reason = signal.aborted ? `not ready within ${warmUpMs} ms` : String(error);
      throw new Error(`The worker threads did not start: ${reason}`, { cause: error });
    }
  }

  async #ready(signal: AbortSignal): Promise<void> {
    await this.#threads.warmUp();
    this.#rates = this.#options.rates ?? (await this.run(calibrateJob(), { signal }));
  }

  /** @throws {WorkerLostError} when a worker ended under one of its tasks. */
  async run<Result>(job: Job<Result>, context: RunContext): Promise<Result> {
    this.#jobs++;
    try {
      let step = job.next([]);
      while (!step.done) {
        const results = step.value.jobOf
          ? await this.#runParts(step.value, context)
          : await this.#runStage(step.value, context);
        step = job.next(results);
      }
      return step.value;
    } finally {
      this.#jobs--;
      job.return(undefined as Result);
    }
  }

  get rates(): Rates {
    return this.#rates;
  }

  load(): Load {
    return {
      workers: this.#options.workers,
      busy: this.#busy,
      jobs: this.#jobs,
      waiting: this.#queue.waiting,
      restarts: this.#threads.restarts,
    };
  }

  rest(): Promise<void> {
    return this.#threads.rest();
  }

  close(): Promise<void> {
    return this.#threads.close();
  }

  #runParts(stage: Stage, context: RunContext): Promise<unknown[]> {
    if (context.runParts) return context.runParts(stage, context);
    return runParts(stage, context, (part, of) => this.run(stage.jobOf!(part), of));
  }

  async #runStage(stage: Stage, context: RunContext): Promise<unknown[]> {
    context.signal.throwIfAborted();
    const start = performance.now();
    const run = new StageRun(stage, context);
    this.#queue.add(run);
    this.#pump();
    const results = await run.results;
    const { name, tasks } = stage;
    context.onStage?.({ name, tasks: tasks.length, start, end: performance.now() });
    return results;
  }

  /** Give timeslices as long as a worker is free. */
  #pump(): void {
    const { workers } = this.#options;
    for (;;) {
      // The thread to spare is for those whose tasks are short.
      const spare = this.#busy >= workers;
      if (this.#busy > workers || (spare && this.#overdue === 0)) break;
      const turn = this.#turn((run) => !spare || !this.#slow.has(run.context));
      if (turn.length === 0) break;
      this.#give(turn, this.#teamOf(turn));
    }
    this.#options.onLoad?.(this);
  }

  /** Workers that would have nothing to do join a job that one of them runs; null: there are none. */
  #teamOf([{ run }, ...more]: Given[]): Others | null {
    const idle = Math.min(this.#options.workers - this.#busy - 1, MOST_OTHERS);
    const alone = more.length > 0 || this.#queue.waiting > 0 || this.#suspect.has(run.context);
    if (!run.stage.team || alone || idle <= 0) return null;
    const words = teamWords();
    const channels = Array.from({ length: idle }, () => new MessageChannel());
    // The others come second: the job is begun without them.
    queueMicrotask(() => {
      for (const { port2 } of channels) this.#join(run, { kernel: 'team', port: port2, words });
      this.#options.onLoad?.(this);
    });
    return { ports: channels.map(({ port1 }) => port1), words };
  }

  /** One worker joins the job of `run`, for as long as that runs. */
  #join(run: StageRun, task: JoinTask): void {
    const { signal } = new AbortController();
    const join = new StageRun({ name: 'join', tasks: [task] }, { signal });
    join.results.catch((error: Error) => {
      lose(task.words);
      this.#suspect.add(run.context);
      run.stop(error);
    });
    this.#give([{ run: join, timeslice: join.begin()! }], null, [task.port]);
  }

  /** For one worker; empty: there is nothing to do. */
  #turn(allowed: (run: StageRun) => boolean): Given[] {
    const turn: Given[] = [];
    const isBrief = (run: StageRun) => run.brief && !this.#suspect.has(run.context);
    const most = Math.min(TOGETHER, Math.ceil(this.#queue.waiting / this.#options.workers));
    let run = this.#queue.take(allowed);
    const together = run !== null && isBrief(run);
    while (run) {
      const timeslice = run.begin();
      if (timeslice) turn.push({ run, timeslice });
      const more = turn.length === 0 || (together && turn.length < most);
      run = more ? this.#queue.take((one) => allowed(one) && (!together || isBrief(one))) : null;
    }
    return turn;
  }

  /** @param others who join it, and @param ports what goes with the message. */
  async #give(
    turn: readonly Given[],
    others: Others | null = null,
    ports: readonly MessagePort[] = others?.ports ?? [],
  ): Promise<void> {
    this.#busy++;
    // As good as an AbortSignal for one listener, at a tenth of its cost.
    const killer = new EventEmitter();
    let hung = false;
    const beats = turn.map(({ run, timeslice }) => run.beatOf(timeslice));
    const watch = watchTimeslice({
      beat: () => beats.reduce((sum, beat) => sum + Atomics.load(beat, 0), 0),
      overdueMs: OVERDUE_MS,
      hungMs: this.#options.hungMs ?? Number.POSITIVE_INFINITY,
      stopped: () => turn.every(({ run }) => run.stopped),
      onOverdue: () => {
        this.#overdue++;
        for (const { run } of turn) this.#slow.add(run.context);
        this.#pump();
      },
      // Ends the thread; another takes its place.
      onHung: () => {
        hung = true;
        killer.emit('abort');
      },
    });
    const timeslices = turn.map(({ timeslice }) => ({ ...timeslice, ...(others && { others }) }));
    const outcomes = await this.#threads
      .run(timeslices, killer, ports)
      .catch((error: Error) => this.#lost(turn, hung ? 'it hung' : error.message));
    if (others) disband(others.words);
    this.#settle(watch);
    for (const [k, { run }] of turn.entries()) {
      run.settled(outcomes[k]!);
      if (outcomes[k]!.status === 'left') this.#queue.add(run);
    }
    this.#pump();
  }

  #settle(watch: TimesliceWatch): void {
    watch.stop();
    if (watch.overdue) this.#overdue--;
    this.#busy--;
  }

  #lost(turn: readonly Given[], message: string): TimesliceOutcome[] {
    return turn.map(({ run }) => {
      this.#suspect.add(run.context);
      return { status: 'lost', message };
    });
  }
}

function* calibrateJob(): Job<Rates> {
  const task: CalibrateTask = { kernel: 'calibrate' };
  const [rates] = (yield { name: 'calibrate', tasks: [task as Task] }) as [Rates];
  return rates;
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
