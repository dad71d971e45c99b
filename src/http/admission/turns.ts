/**
 * Turns at the thread that talks HTTP. To decode a body, check it and price it takes that thread a millisecond or more;
 * were all bodies that have arrived taken in one go, a client with many connections would hold up everybody else. So
 * one body is taken in each round of the event loop, and clients take turns; probes and answers go between two of them.
 */
import { FairQueue, type Member } from '../../pool/fair-queue.js';

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

  // What one immediate resolves runs before the next round of the event loop.
  readonly #next = (): void => {
    const first = this.#queue.take();
    first?.start();
    this.#busy = first !== null;
    if (first) setImmediate(this.#next);
  };
}
