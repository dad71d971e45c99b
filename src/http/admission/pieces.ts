/** Pieces that a body comes in (chunks of the transfer coding): each costs some microseconds, however few bytes it has. */
import { Problem } from '../../errors.js';

/** Pieces that may be as small as they like; and bytes of the others, on average. */
const FREE = 4096;
const LEAST = 64;

export class Pieces {
  #number = 0;
  #bytes = 0;

  /** @throws {Problem} bad-request when they are too many for what they bring. */
  add(bytes: number): void {
    this.#bytes += bytes;
    if (++this.#number <= FREE || this.#bytes >= LEAST * this.#number) return;
    throw new Problem(
      'bad-request',
      `The body comes in ${this.#number} pieces of ${Math.round(this.#bytes / this.#number)} bytes on average; from ${FREE} pieces on at least ${LEAST} are needed.`,
      { limit: LEAST },
    );
  }
}
