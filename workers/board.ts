/**
 * What the threads at work on one stage share: which tasks are begun and done, and a note to stop.
 * Tasks are begun in their order, each by one thread.
 */

const STOP = 0;
const NEXT = 1;
/** From here on a word for each task. */
const DONE = 2;

/** How often a thread that waits for another looks whether the stage was stopped. */
const POLL_MS = 5;

export class Board {
  /** @param words over a SharedArrayBuffer, as `open` made them. */
  constructor(readonly words: Int32Array) {}

  static open(tasks: number): Board {
    return new Board(new Int32Array(new SharedArrayBuffer(4 * (DONE + tasks))));
  }

  /** No task is to be begun any more, and those that run are to stop. */
  stop(): void {
    Atomics.store(this.words, STOP, 1);
  }

  /** Not 0: stopped. */
  get stopWord(): Int32Array {
    return this.words.subarray(STOP, STOP + 1);
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

  finish(index: number): void {
    Atomics.store(this.words, DONE + index, 1);
    Atomics.notify(this.words, DONE + index);
  }

  /**
   * Blocks until a task that is begun is done; false: the stage was stopped first.
   *
   * @param stopped asked now and then: a thread that waits is alive.
   */
  waitFor(index: number, stopped: () => boolean): boolean {
    while (!stopped()) {
      if (Atomics.load(this.words, DONE + index) !== 0) return true;
      Atomics.wait(this.words, DONE + index, 0, POLL_MS);
    }
    return false;
  }
}
