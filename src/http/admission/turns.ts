/**
 * Turns at the thread that talks HTTP. To decode a body, check it and price it takes that thread a millisecond or more;
 * were all bodies that have arrived taken in one go, a client with many connections would hold up everybody else. So
 * some milliseconds of each round of the event loop are for bodies, and clients take turns; probes and answers go between.
 */
import { FairQueue, type Member } from '../../pool/fair-queue.js';

/** Of each round of the event loop. */
const ROUND_MS = 5;

class Waiting implements Member {
  readonly ready = true;
  waiting = 1;

  constructor(
    readonly owner: string,
    private readonly begin: () => void,
  ) {}

  start(): void {
    this.waiting = 0;
    this.begin();
  }
}

export class Turns {
  readonly #queue = new FairQueue<Waiting>();
  #busy = false;

  /** Resolves when it is the client's turn, which lasts until it waits for something. */
  take(client: string): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.add(new Waiting(client, resolve));
      if (!this.#busy) setImmediate(this.#next);
      this.#busy = true;
    });
  }

  readonly #next = async (): Promise<void> => {
    const end = performance.now() + ROUND_MS;
    let first = this.#queue.take();
    for (; first; first = performance.now() < end ? this.#queue.take() : null) {
      first.start();
      // Its body is decoded before this goes on.
      await null;
    }
    this.#busy = this.#queue.waiting > 0;
    if (this.#busy) setImmediate(this.#next);
  };
}
