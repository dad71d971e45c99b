/**
 * How a computation is cut into pieces that any number of worker threads can run.
 *
 * A job is a generator: it yields one stage after the other and is handed the results of the tasks of
 * that stage, in the order of the tasks; what it returns is the result of the job. The tasks of one
 * stage are independent of each other and may run anywhere, in any order, but for what `stride` says. The
 * cut depends on the problem only, never on the number of workers, so the answer is bitwise the same at any thread count.
 *
 * A job that is given up is ended with `return()` when none of its tasks runs any more, so that what it
 * does `finally` is done in any case.
 *
 * A task must survive structured cloning: a plain object whose typed arrays sit over
 * SharedArrayBuffers. Big results are written there; what a task returns travels back by value and
 * is small.
 */
export interface Task<Result = unknown> {
  /** Which kernel runs it; `workers/worker.ts` holds the table. */
  readonly kernel: string;
  /** Never there: the type of what a worker makes of the task. */
  readonly returns?: Result;
}

/** A task that is a job by itself: whoever runs it cuts it further, here or on another machine. */
export interface LargeTask<Result = unknown> extends Task<Result> {
  /** About so much work, as floating-point operations of the exact kernel. */
  readonly flops: number;
}

export type ResultOf<T extends Task> = T extends Task<infer Result> ? Result : never;

export interface Stage<T extends Task = Task> {
  /** For the log, the progress and the metrics: 'decode', 'project', 'attention', ... */
  readonly name: string;
  readonly tasks: readonly T[];
  /** Task k goes on where task k - stride ended, and begins after it. Absent: tasks wait for no other. */
  readonly stride?: number;
  /** Its one task takes a few milliseconds at most: a worker may be given several such stages at once. */
  readonly brief?: boolean;
  /** Its one task is a job that a worker runs: others that have nothing to do may join it. */
  readonly team?: boolean;
  /** The job that a task is, where all of them are LargeTasks. */
  jobOf?(task: T): Job<unknown>;
  /** Which part of the whole job's work this stage is: from, to, both in [0, 1]. */
  readonly span?: readonly [number, number];
}

export type Job<Result, T extends Task = Task> = Generator<Stage<T>, Result, readonly unknown[]>;

/** One stage: hands back what its tasks return. Nothing is asked of the workers where there are none. */
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

/** Asked between row blocks; true: stop now, the result is not wanted any more. */
export interface Cancelled {
  (): boolean;
  readonly words?: CancelWords | undefined;
}

/** What `Cancelled` does, for code that cannot call it: count up `beat`, and stop where `stop` is not 0. */
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

/** Numbers that overflow in the algebra of a plan, or that a decomposition cannot take. Thrown by a task; the job that asked for it sees it again, from `stage`. */
export class NumericError extends Error {
  override readonly name = 'NumericError';
}

/** What a task returns in its place: threads strip errors. */
export interface NumericFailure {
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
