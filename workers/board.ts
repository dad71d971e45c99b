/**
 * What the threads at work on one stage share: which tasks are begun and done, signs of life, and a note to stop.
 * Tasks are begun in their order, each by one thread.
 */

const STOP = 0;
const NEXT = 1;
/** Two words for each task from here on: whether it is done, and the heartbeat of a timeslice that begins with it. */
const TASKS = 2;
const WORDS_OF_TASK = 2;

/** How often a thread that waits for another looks whether the stage was stopped. */
const POLL_MS = 5;

/** Looks before a thread sleeps: the threads of a stage finish at about the same time, and waking one takes longer than this. */
const LOOKS = 2000;

/** Blocks until words[at] is not `value`, a few milliseconds at most. @returns whether it has changed. */
export function awaitChange(words: Int32Array, at: number, value: number): boolean {
  for (let look = 0; look < LOOKS; look++) {
    if (Atomics.load(words, at) !== value) return true;
  }
  Atomics.wait(words, at, value, POLL_MS);
  return Atomics.load(words, at) !== value;
}

export class Board {
  /** @param words over a SharedArrayBuffer, as `open` made them. */
  constructor(readonly words: Int32Array) {}

  static open(tasks: number): Board {
    return new Board(new Int32Array(new SharedArrayBuffer(4 * (TASKS + WORDS_OF_TASK * tasks))));
  }

  /** No task is to be begun any more, and those that run are to stop. */
  stop(): void {
    Atomics.store(this.words, STOP, 1);
  }

  /** Not 0: stopped. */
  get stopWord(): Int32Array {
    return this.words.subarray(STOP, STOP + 1);
  }

  /** Counted up as long as the thread lives whose timeslice begins with this task. */
  beatOf(first: number): Int32Array {
    const at = TASKS + WORDS_OF_TASK * first + 1;
    return this.words.subarray(at, at + 1);
  }

  get stopped(): boolean {
    return Atomics.load(this.words, STOP) !== 0;
  }

  /** How many tasks are begun. */
  get begun(): number {
    return Atomics.load(this.words, NEXT);
  }

  /** Begin the next task: its index if that is below `end`, else null. */
  begin(end: number): number | null {
    for (let next = this.begun; next < end; ) {
      const found = Atomics.compareExchange(this.words, NEXT, next, next + 1);
      if (found === next) return next;
      next = found;
    }
    return null;
  }

  /** Nobody begins the task now; no other is there. */
  putBack(): void {
    Atomics.store(this.words, NEXT, 0);
  }

  finish(index: number): void {
    const word = TASKS + WORDS_OF_TASK * index;
    Atomics.store(this.words, word, 1);
    Atomics.notify(this.words, word);
  }

  /**
   * Blocks until a task that is begun is done; false: the stage was stopped first.
   *
   * @param stopped asked now and then: a thread that waits is alive.
   */
  waitFor(index: number, stopped: () => boolean): boolean {
    const word = TASKS + WORDS_OF_TASK * index;
    while (!stopped()) {
      if (awaitChange(this.words, word, 0)) return true;
    }
    return false;
  }
}
