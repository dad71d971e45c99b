/**
 * Lines of the log on their way out. Who reads them may stall or end, and a disk may be full: the service waits for none
 * of it. What does not get through is dropped and counted, and the count is told when lines get through again.
 */
import { hostname } from 'node:os';

/**
 * Lines are written together, so many characters or what has come in this time: a line alone takes as long as the head
 * of a request.
 */
const TOGETHER = 4096;
const TOGETHER_MS = 100;
/** Characters that may wait for a stalled reader. */
const MOST_WAITING = 2 ** 20;
/** At the end of the process such a reader has a moment. */
const LAST_MS = 500;
const LAST_PAUSE_MS = 10;

const NOTHING = Buffer.alloc(0);

export class LineWriter {
  #lines = '';
  /** Bytes whose turn has come. */
  #begun: Buffer = NOTHING;
  /** Lines that were dropped, and as many of them as `#begun` tells. */
  #dropped = 0;
  #told = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param put writes some of the bytes and says how many; throws what the system says, EAGAIN: not now. */
  constructor(private readonly put: (bytes: Uint8Array) => number) {}

  write(line: string): void {
    if (this.#lines.length >= MOST_WAITING) {
      this.#dropped++;
      return;
    }
    this.#lines += line;
    const stalled = this.#begun.length > 0;
    if (this.#lines.length >= TOGETHER && !stalled) this.flush();
    else this.#later();
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      while (this.#waits) {
        if (this.#begun.length === 0) this.#begin();
        this.#begun = this.#begun.subarray(this.put(this.#begun));
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') this.#later();
      else this.#drop();
    }
  }

  /** The process ends. */
  end(): void {
    const end = performance.now() + LAST_MS;
    const never = new Int32Array(new SharedArrayBuffer(4));
    for (this.flush(); this.#waits && performance.now() < end; this.flush()) {
      Atomics.wait(never, 0, 0, LAST_PAUSE_MS);
    }
  }

  get #waits(): boolean {
    return this.#begun.length > 0 || this.#lines !== '';
  }

  #later(): void {
    this.#timer ??= setTimeout(() => this.flush(), TOGETHER_MS).unref();
  }

  #begin(): void {
    this.#told = this.#dropped;
    this.#begun = Buffer.from(this.#told > 0 ? lineOf(this.#told) : this.#lines);
    if (this.#told > 0) this.#dropped = 0;
    else this.#lines = '';
  }

  #drop(): void {
    this.#dropped += this.#told || linesIn(this.#begun.toString('latin1'));
    this.#dropped += linesIn(this.#lines);
    this.#begun = NOTHING;
    this.#lines = '';
  }
}

const linesIn = (text: string) => text.split('\n').length - 1;

/** A line of its own: what was dropped may have been cut in the middle of one. */
function lineOf(dropped: number): string {
  const line = {
    ...{ level: 40, time: Date.now(), pid: process.pid, hostname: hostname(), dropped },
    msg: `${dropped} lines of the log did not get through`,
  };
  return `\n${JSON.stringify(line)}\n`;
}
