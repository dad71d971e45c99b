/**
 * Who finds no place waits at the door for a moment. Places become free all the time, so that a burst is served and not
 * refused; and a client that sends again at once, whatever it is told, keeps nobody busy with refusals. Clients take
 * turns, and what else there is of a request that waits is not read. Under lasting overload only so many wait as are
 * expected to enter: who waits in vain costs more than who is told at once.
 */

/** How long a request waits at most, and may be expected to, ms. */
const WAIT_MS = 1000;
const EXPECTED_MS = WAIT_MS / 2;
/** Guests by whom it is known how fast others enter. */
const KNOWN = 32;

interface Guest {
  settle(mayEnter: boolean): void;
}

export class Door {
  /** By client, in the order of their turns; the first of a line has waited longest. */
  readonly #lines = new Map<string, Guest[]>();
  #waiting = 0;
  /** When the last guests entered, since somebody has waited all the time; by `now`. */
  #entered: number[] = [];

  /**
   * @param room requests that may wait; then the last of the longest line has to go.
   * @param hasPlace whether there is one for this client.
   * @param now milliseconds of any clock.
   */
  constructor(
    readonly room: number,
    private readonly hasPlace: (client: string) => boolean,
    private readonly now = () => performance.now(),
  ) {}

  get waiting(): number {
    return this.#waiting;
  }

  /** Whether a request of this client has to wait: there is no place, or others of its client wait already. */
  isClosed(client: string): boolean {
    return this.#lines.has(client) || !this.hasPlace(client);
  }

  /** Whether no other request of this client may wait: no line is longer, or it would be in vain. */
  isFull(client: string): boolean {
    const mine = this.#lines.get(client)?.length ?? 0;
    if (this.#waiting >= this.room && mine === this.#longest().length) return true;
    return this.#expectedWait(mine + 1) > EXPECTED_MS;
  }

  /** Milliseconds until the guest enters who is at this place in the line of its client. */
  #expectedWait(place: number): number {
    if (this.#entered.length < KNOWN) return 0;
    let turns = 1;
    for (const line of this.#lines.values()) turns += Math.min(line.length, place);
    return (turns * (this.now() - this.#entered[0]!)) / KNOWN;
  }

  /**
   * @param onGone calls back when the client leaves.
   * @param ahead of the others of its client: what has been read of it would be read in vain.
   * @returns whether it may try to enter: there is a place, or it has waited its time.
   */
  wait(client: string, onGone: (callback: () => void) => void, ahead = false): Promise<boolean> {
    if (!ahead && this.isFull(client)) return Promise.resolve(false);
    if (this.#waiting >= this.room) this.#longest().at(-1)?.settle(false);
    return new Promise((resolve) => {
      const guest: Guest = {
        settle: (mayEnter) => {
          clearTimeout(timer);
          this.#remove(client, guest);
          resolve(mayEnter);
        },
      };
      const timer = setTimeout(guest.settle, WAIT_MS, true);
      const line = this.#lines.get(client) ?? [];
      if (ahead) line.unshift(guest);
      else line.push(guest);
      this.#lines.set(client, line);
      this.#waiting++;
      onGone(() => guest.settle(false));
    });
  }

  /** A place has become free: the first client that may have it, has it. */
  open(): void {
    for (const [client, line] of this.#lines) {
      if (!this.hasPlace(client)) continue;
      this.#lines.delete(client);
      this.#lines.set(client, line);
      this.#entered.push(this.now());
      if (this.#entered.length > KNOWN) this.#entered.shift();
      line[0]?.settle(true);
      return;
    }
  }

  #longest(): Guest[] {
    let longest: Guest[] = [];
    for (const line of this.#lines.values()) if (line.length > longest.length) longest = line;
    return longest;
  }

  #remove(client: string, guest: Guest): void {
    const line = this.#lines.get(client);
    const at = line?.indexOf(guest) ?? -1;
    if (!line || at < 0) return;
    line.splice(at, 1);
    this.#waiting--;
    if (line.length === 0) this.#lines.delete(client);
    if (this.#waiting === 0) this.#entered = [];
  }
}
