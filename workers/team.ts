/**
 * Threads that run the stages of one short job together. The primary thread has the job and begins its stages; the
 * others take tasks of each from a board that all share. They speak through ports and shared words, and not by way of
 * the thread that hands out the work: for a job of a few milliseconds that way is longer than its stages.
 */
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { awaitChange, Board } from './board.js';
import {
  type Cancelled,
  CancelledError,
  checkpoint,
  type RunStage,
  type Stage,
  type Task,
} from './job.js';

/** Words that a team shares. */
const STOP = 0;
const STAGES = 1;
const LOST = 2;

/** What the primary thread knows of the others. */
export interface Others {
  /** One for each. */
  readonly ports: readonly MessagePort[];
  readonly words: Int32Array;
}

/** What one of the others is given: it ends with the job. */
export interface JoinTask extends Task<void> {
  readonly kernel: 'team';
  readonly port: MessagePort;
  readonly words: Int32Array;
}

/** A stage, as the primary thread sends it. */
interface Begun extends Pick<Stage, 'tasks' | 'stride'> {
  readonly board: Int32Array;
}

/** What comes back, before the task counts as finished. */
type Found =
  | { readonly index: number; readonly value: unknown }
  | { readonly message: string; readonly stack: string | undefined };

export const teamWords = () => new Int32Array(new SharedArrayBuffer(12));

/** The job has ended, or its thread has. */
export function disband(words: Int32Array): void {
  Atomics.store(words, STOP, 1);
  Atomics.notify(words, STAGES);
}

/** One of the others has ended: what it began is not finished any more. */
export function lose(words: Int32Array): void {
  Atomics.store(words, LOST, 1);
}

/** The team, for its primary thread. */
export class Team {
  /** Board of the last stage: memory must not be given up while its tasks still run. */
  #board: Board | null = null;

  constructor(
    readonly others: Others,
    readonly cancelled: Cancelled,
  ) {}

  /** A stage of one task is not worth a word. @throws {CancelledError} */
  readonly all: RunStage = ({ tasks, stride }, runOne) => {
    if (tasks.length === 1) return tasks.map(runOne);
    const { ports, words } = this.others;
    const board = Board.open(tasks.length);
    const begun: Begun = { tasks, ...(stride && { stride }), board: board.words };
    for (const port of ports) port.postMessage(begun);
    this.#board = board;
    Atomics.add(words, STAGES, 1);
    Atomics.notify(words, STAGES);
    const values: unknown[] = new Array(tasks.length);
    takeTasks(board, begun, this.cancelled, (index) => {
      checkpoint(this.cancelled);
      values[index] = runOne(tasks[index]!);
    });
    for (let index = 0; index < tasks.length; index++) {
      if (!board.waitFor(index, this.#isLost)) throw new CancelledError();
    }
    for (const found of ports.flatMap(received<Found>)) {
      if ('message' in found) throw Object.assign(new Error(found.message), found);
      values[found.index] = found.value;
    }
    return values;
  };

  /** The others end, none of them in the middle of a task. */
  close(): void {
    const { ports, words } = this.others;
    disband(words);
    const board = this.#board;
    // Cancelled or not: they stop by themselves.
    for (let index = 0; board && index < board.begun; index++) board.waitFor(index, this.#isLost);
    for (const port of ports) port.close();
  }

  readonly #isLost = () => {
    const { words } = this.others;
    // Asked in any case: who waits is alive.
    if (this.cancelled()) disband(words);
    return Atomics.load(words, LOST) !== 0;
  };
}

function received<T>(port: MessagePort): T[] {
  const messages: T[] = [];
  for (let one = receiveMessageOnPort(port); one; one = receiveMessageOnPort(port)) {
    messages.push(one.message as T);
  }
  return messages;
}

/** What one of the others does, until the job ends. */
export function join(
  { port, words }: JoinTask,
  alive: Cancelled,
  runOne: (task: Task, cancelled: Cancelled) => unknown,
): void {
  const isOver = () => alive() || Atomics.load(words, STOP) !== 0;
  const stop = words.subarray(STOP, STOP + 1);
  const cancelled = Object.assign(isOver, {
    words: alive.words && { stop, beat: alive.words.beat },
  });
  for (let stages = 0; !isOver(); ) {
    if (!awaitChange(words, STAGES, stages)) continue;
    stages = Atomics.load(words, STAGES);
    for (const begun of received<Begun>(port)) help(begun, port, runOne, cancelled);
  }
  port.close();
}

/** The part in a stage of one of the others. */
function help(
  { tasks, board, ...begun }: Begun,
  port: MessagePort,
  runOne: (task: Task, cancelled: Cancelled) => unknown,
  cancelled: Cancelled,
): void {
  const say = (found: Found) => port.postMessage(found);
  takeTasks(new Board(board), { tasks, ...begun }, cancelled, (index) => {
    try {
      checkpoint(cancelled);
      say({ index, value: runOne(tasks[index]!, cancelled) });
    } catch (error) {
      const { message, stack } = error as Error;
      say({ message, stack });
    }
  });
}

/** Runs tasks as long as there are any. Each that is begun is finished, whatever becomes of it: others wait for it. */
function takeTasks(
  board: Board,
  { tasks, stride }: Pick<Begun, 'tasks' | 'stride'>,
  cancelled: Cancelled,
  run: (index: number) => void,
): void {
  for (let index = board.begin(tasks.length); index !== null; index = board.begin(tasks.length)) {
    try {
      if (stride && index >= stride) board.waitFor(index - stride, cancelled);
      run(index);
    } finally {
      board.finish(index);
    }
  }
}
