/**
 * Turns at the thread that talks HTTP. To refuse a request by its head takes that thread a fraction of a millisecond, to
 * decode a body, check it and price it a millisecond or more; were all that have arrived taken in one go, a client with many
 * connections would hold up everybody else. So some time of each round of the event loop is for heads and some for
 * bodies, and clients take turns; probes, answers and new connections, of which Node takes up one in a round, go between.
 */

/** Time for such work in each round of the event loop. */
const ROUND_MS = 2;

export class Turns {
  /** Who waits, by client, in the order of their turns. */
  readonly #lines = new Map<string, (() => void)[]>();
  #waiting = 0;
  #busy = false;

  get waiting(): number {
    return this.#waiting;
  }

  isWaiting(client: string): boolean {
    return this.#lines.has(client);
  }

  /** Resolves when it is the client's turn, which lasts until it waits for something. */
  take(client: string): Promise<void> {
    return new Promise((resolve) => {
      const line = this.#lines.get(client);
      if (line) line.push(resolve);
      else this.#lines.set(client, [resolve]);
      this.#waiting++;
      if (!this.#busy) setImmediate(this.#round);
      this.#busy = true;
    });
  }

  readonly #round = (): void => {
    const end = performance.now() + ROUND_MS;
    const next = () => {
      this.#begin();
      // Ticks come when all microtasks are through: what has begun goes on until it waits for something.
      queueMicrotask(() => process.nextTick(more));
    };
    const more = () => {
      this.#busy = this.#waiting > 0;
      if (!this.#busy) return;
      if (performance.now() < end) next();
      else setImmediate(this.#round);
    };
    next();
  };

  /** The first of the client whose turn it is. */
  #begin(): void {
    for (const [client, line] of this.#lines) {
      this.#lines.delete(client);
      line.shift()?.();
      this.#waiting--;
      if (line.length > 0) this.#lines.set(client, line);
      return;
    }
  }
}
