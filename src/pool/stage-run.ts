/** One stage of one job on its way through the workers: collects results, stops on the first failure. */

import { Board } from '../../workers/board.js';
import type { Stage } from '../../workers/job.js';
import type { TaskResult, Timeslice, TimesliceOutcome } from '../../workers/timeslice.js';
import { type RunContext, WorkerLostError } from './executor.js';
import type { Member } from './fair-queue.js';

/** Tasks that a worker is sent for one timeslice, at first and at most: tasks that it does not reach were copied for nothing. */
const FEW = 4;
const MANY = 32;

export class StageRun implements Member {
  /** Results in the order of the tasks. Settles only when no task of the stage runs any more. */
  readonly results: Promise<unknown[]>;

  readonly #board: Board;
  readonly #values: unknown[];
  readonly #onAbort = () => this.stop(this.context.signal.reason as Error);
  #resolve!: (values: unknown[]) => void;
  #reject!: (error: Error) => void;
  /** Workers that have a timeslice now. */
  #running = 0;
  #done = 0;
  /** The most tasks that one timeslice got through. */
  #most = FEW / 2;
  #failure: Error | null = null;

  constructor(
    readonly stage: Stage,
    readonly context: RunContext,
  ) {
    this.#board = Board.open(stage.tasks.length);
    this.#values = new Array(stage.tasks.length);
    this.results = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    context.signal.addEventListener('abort', this.#onAbort, { once: true });
    this.#settleIfOver();
  }

  get owner(): string {
    return this.context.owner ?? '';
  }

  get waiting(): number {
    return this.#failure ? 0 : this.stage.tasks.length - this.#board.begun;
  }

  /** Whether another worker can be used: more workers than chains of tasks would wait for each other. */
  get ready(): boolean {
    return this.waiting > 0 && this.#running < (this.stage.stride ?? Number.POSITIVE_INFINITY);
  }

  /** Whether a worker may be given other brief stages with it. */
  get brief(): boolean {
    return this.stage.brief ?? false;
  }

  /** Whether its results are not wanted any more. */
  get stopped(): boolean {
    return this.#failure !== null;
  }

  /** The timeslice of a worker that begins now; null: others have just taken the last task. */
  begin(): Timeslice | null {
    const { tasks, stride = null } = this.stage;
    const first = this.#board.begin(tasks.length);
    if (first === null) return null;
    this.#running++;
    this.context.onStart?.();
    const window = tasks.slice(first, first + Math.min(2 * this.#most, MANY));
    return { tasks: window, first, stride, board: this.#board.words };
  }

  /** The heartbeat of the worker that was given this timeslice. */
  beatOf({ first }: Timeslice): Int32Array {
    return this.#board.beatOf(first);
  }

  /** A worker is through with its timeslice. */
  settled(outcome: TimesliceOutcome): void {
    this.#running--;
    if (outcome.status === 'done') this.#collect(outcome.results);
    else if (outcome.status === 'left') {
      this.#board.putBack();
      this.#settleIfOver();
    } else if (outcome.status === 'lost') {
      this.stop(new WorkerLostError(`A worker thread was lost: ${outcome.message}`));
    } else if (outcome.status === 'failed') {
      this.stop(Object.assign(new Error(outcome.message), { stack: outcome.stack }));
    } else {
      this.stop(new Error('A task was cancelled'));
    }
  }

  #collect(results: readonly TaskResult[]): void {
    for (const { index, value } of results) this.#values[index] = value;
    this.#done += results.length;
    this.#most = Math.max(this.#most, results.length);
    const fraction = this.#fraction();
    this.context.onProgress?.({ stage: this.stage.name, tasks: results.length, fraction });
    this.#settleIfOver();
  }

  #fraction(): number | null {
    const { span, tasks } = this.stage;
    return span ? span[0] + ((span[1] - span[0]) * this.#done) / tasks.length : null;
  }

  /** Stops running tasks; no other begins. */
  stop(error: Error): void {
    this.#failure ??= error;
    this.#board.stop();
    this.#settleIfOver();
  }

  #settleIfOver(): void {
    if (this.#running > 0 || (!this.#failure && this.#done < this.stage.tasks.length)) return;
    this.context.signal.removeEventListener('abort', this.#onAbort);
    if (this.#failure) this.#reject(this.#failure);
    else this.#resolve(this.#values);
  }
}
