/** One stage of one job on its way through the workers: collects results, stops on the first failure. */
import type { Stage, Task } from '../../workers/kernels/job.js';
import type { RunContext } from './executor.js';
import type { TaskOutcome } from './message.js';

export interface NumberedTask {
  readonly task: Task;
  readonly index: number;
}

export class StageRun {
  /** Results in the order of the tasks. Settles only when no task of the stage runs any more. */
  readonly results: Promise<unknown[]>;
  readonly tasks: readonly NumberedTask[];
  /** Polled by the workers; one element over a SharedArrayBuffer, not zero: stop. */
  readonly cancel = new Int32Array(new SharedArrayBuffer(4));

  readonly #stage: Stage;
  readonly #context: RunContext;
  readonly #onStop: () => void;
  readonly #values: unknown[];
  readonly #onAbort = () => this.#stop(this.#context.signal.reason as Error);
  #resolve!: (values: unknown[]) => void;
  #reject!: (error: Error) => void;
  #running = 0;
  #done = 0;
  #failure: Error | null = null;

  /** @param onStop called when no further task of this stage may start. */
  constructor(stage: Stage, context: RunContext, onStop: (run: StageRun) => void) {
    this.#stage = stage;
    this.#context = context;
    this.#onStop = () => onStop(this);
    this.#values = new Array(stage.tasks.length);
    this.tasks = stage.tasks.map((task, index) => ({ task, index }));
    this.results = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    context.signal.addEventListener('abort', this.#onAbort, { once: true });
    this.#settleIfOver();
  }

  /** A worker begins with one of the tasks. */
  started(): void {
    this.#running++;
    this.#context.onStart?.();
  }

  /** A worker is through with task `index`. */
  settled(index: number, outcome: TaskOutcome): void {
    this.#running--;
    if (outcome.status === 'done') {
      this.#values[index] = outcome.value;
      this.#done++;
      this.#context.onProgress?.({ stage: this.#stage.name, fraction: this.#fraction() });
      this.#settleIfOver();
    } else if (outcome.status === 'failed') {
      this.#stop(Object.assign(new Error(outcome.message), { stack: outcome.stack }));
    } else {
      this.#stop(new Error('A task was cancelled'));
    }
  }

  #fraction(): number | null {
    if (!this.#stage.span) return null;
    const [from, to] = this.#stage.span;
    return from + ((to - from) * this.#done) / this.tasks.length;
  }

  #stop(error: Error): void {
    if (!this.#failure) {
      this.#failure = error;
      Atomics.store(this.cancel, 0, 1);
      this.#onStop();
    }
    this.#settleIfOver();
  }

  #settleIfOver(): void {
    if (this.#running > 0 || (!this.#failure && this.#done < this.tasks.length)) return;
    this.#context.signal.removeEventListener('abort', this.#onAbort);
    if (this.#failure) this.#reject(this.#failure);
    else this.#resolve(this.#values);
  }
}
