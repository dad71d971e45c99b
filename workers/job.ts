/**
 * How a computation is cut into pieces that any number of worker threads can run.
 *
 * A job is a generator. It yields stages, one after the other, and receives the results of the tasks of each, in their
 * order. What it returns is the result of the job. The tasks of a stage are independent and may run anywhere, in any order
 * (except as `stride` says). The cut depends on the problem only, never on the number of workers, so the answer is
 * bitwise the same on any number of threads.
 *
 * A job that is given up is ended with `return()` once none of its tasks runs any more, so that its `finally` blocks
 * always run.
 *
 * A task must survive structured cloning: it is a plain object whose typed arrays lie in SharedArrayBuffers. Large results
 * are written there; what a task returns is copied back and is small.
 */
export interface Task<Result = unknown> {
  /** Which kernel runs it: `workers/tasks/run.ts` has the table. */
  readonly kernel: string;
  /** Never set: the type of the task's result. */
  readonly returns?: Result;
}

/** A task that is a job by itself: it is cut further where it runs, here or on another machine. */
export interface LargeTask<Result = unknown> extends Task<Result> {
  /** Its work, in floating-point operations of the exact kernel that take as long. */
  readonly flops: number;
}

export type ResultOf<T extends Task> = T extends Task<infer Result> ? Result : never;

export interface Stage<T extends Task = Task> {
  /** For the log, the progress and the metrics: 'decode', 'project', 'attention', ... */
  readonly name: string;
  readonly tasks: readonly T[];
  /** Task k continues task k - stride and begins after it has ended. Absent: tasks wait for no other. */
  readonly stride?: number;
  /** Its only task takes a few milliseconds at most: a worker may be given several such stages at once. */
  readonly brief?: boolean;
  /** Its only task is a job that one worker runs: idle workers may join it. */
  readonly team?: boolean;
  /** The job that a task is, where all of them are LargeTasks. */
  jobOf?(task: T): Job<unknown>;
  /** Which part of the job's work this stage is, for the progress: from, to, both in [0, 1]. */
  readonly span?: readonly [number, number];
}

export type Job<Result, T extends Task = Task> = Generator<Stage<T>, Result, readonly unknown[]>;

/** One stage: returns the results of its tasks. Without tasks nothing is sent to the workers. */
export function* stage<T extends Task>(
  name: string,
  tasks: readonly T[],
  span?: readonly [number, number],
): Job<ResultOf<T>[], T> {
  if (tasks.length === 0) return [];
  const results = yield { name, tasks, ...(span && { span }) };
  requireNumbers(results);
  return results as ResultOf<T>[];
}

/** One stage of tasks that are jobs. */
export function* parts<T extends LargeTask>(
  tasks: readonly T[],
  jobOf: (task: T) => Job<ResultOf<T>>,
): Job<ResultOf<T>[], T> {
  const results = yield { name: 'parts', tasks, jobOf, span: [0, 1] };
  requireNumbers(results);
  return results as ResultOf<T>[];
}

/** The job as the part [from, to] of the work of a larger one. */
export function* within<Result, T extends Task>(
  [from, to]: readonly [number, number],
  job: Job<Result, T>,
): Job<Result, T> {
  const place = (share: number) => from + share * (to - from);
  try {
    let step = job.next([]);
    while (!step.done) {
      const { span, ...rest } = step.value;
      const placed = span && { span: [place(span[0]), place(span[1])] as const };
      step = job.next(yield { ...rest, ...placed });
    }
    return step.value;
  } finally {
    job.return(undefined as Result);
  }
}

/** Runs all tasks of a stage. @returns what each of them does. */
export type RunStage = (stage: Stage, runOne: (task: Task) => unknown) => readonly unknown[];

/** Called between row blocks; true: stop now, the result is not wanted any more. */
export interface Cancelled {
  (): boolean;
  readonly words?: CancelWords | undefined;
}

/** The same for code that cannot call it: increment `beat`, and stop when `stop` is not 0. */
interface CancelWords {
  readonly stop: Int32Array;
  readonly beat: Int32Array;
}

/** Throws CancelledError when the result is not wanted any more. */
export interface Checkpoint {
  (): void;
  readonly words?: CancelWords | undefined;
}

export function checkpointOf(cancelled: Cancelled): Checkpoint {
  return Object.assign(() => checkpoint(cancelled), { words: cancelled.words });
}

/** Thrown by a kernel that was told to stop. */
export class CancelledError extends Error {
  override readonly name = 'CancelledError';
}

/** @throws {CancelledError} when the result is not wanted any more. */
export function checkpoint(cancelled: Cancelled): void {
  if (cancelled()) throw new CancelledError();
}

/**
 * Run a job on this thread: for tests, benchmarks and short problems.
 *
 * @param all runs the tasks of a stage; by default one after the other.
 */
export function runJob<Result, T extends Task>(
  job: Job<Result, T>,
  run: (task: Exclude<T, LargeTask>, cancelled: Cancelled) => unknown,
  cancelled: Cancelled = () => false,
  all: RunStage = ({ tasks }, runOne) => tasks.map(runOne),
): Result {
  try {
    let step = job.next([]);
    while (!step.done) {
      const { tasks, jobOf } = step.value;
      const runOne = (task: Task) => run(task as Exclude<T, LargeTask>, cancelled);
      step = job.next(
        jobOf
          ? tasks.map((task) => runJob(jobOf(task) as Job<unknown, T>, run, cancelled, all))
          : all(step.value, runOne),
      );
    }
    return step.value;
  } finally {
    job.return(undefined as Result);
  }
}

/**
 * Numbers overflowed in the algebra of a plan, or a decomposition failed. Thrown by a task, and again by `stage` in the
 * job that yielded the task.
 */
export class NumericError extends Error {
  override readonly name = 'NumericError';
}

/** What a task returns in its place: errors lose their class between threads. */
interface NumericFailure {
  readonly numericFailure: string;
}

/** @throws whatever else it was. */
export function numericFailure(error: unknown): NumericFailure {
  if (error instanceof NumericError) return { numericFailure: error.message };
  throw error;
}

/** Runs a task whose algebra may break down. */
export function withNumericFailure<Result>(run: () => Result): Result | NumericFailure {
  try {
    return run();
  } catch (error) {
    return numericFailure(error);
  }
}

/** @throws {NumericError} when one of the results of a stage is a failure. */
function requireNumbers(results: readonly unknown[]): void {
  for (const result of results) {
    if (typeof result === 'object' && result !== null && 'numericFailure' in result) {
      throw new NumericError(String(result.numericFailure));
    }
  }
}
