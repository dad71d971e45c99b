/**
 * Requests that find no place wait for one for up to a second. So a burst is served and not refused, and a client that
 * sends again at once costs no refusals. Clients take turns, and the body of a request that waits is not read. Under
 * lasting overload only as many wait as are expected to get a place: to wait in vain costs more than to be refused at once.
 */

/** Longest wait of a request, and longest expected wait with which it may begin to wait, ms. */
const WAIT_MS = 1000;
const EXPECTED_MS = WAIT_MS / 2;
/** Requests that have entered last, which tell how fast others will. */
const KNOWN = 32;

interface WaitingRequest {
  settle(mayEnter: boolean): void;
}

export class WaitingRoom {
  /** Who waits, by client, in the order of their turns. The first of a line has waited longest. */
  readonly #lines = new Map<string, WaitingRequest[]>();
  #waiting = 0;
  /** When the last requests entered, while some have waited all the time; by `now`. */
  #entered: number[] = [];

  /**
   * @param room how many requests may wait; beyond it the last of the longest line is refused.
   * @param hasPlace whether there is a place for this client.
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

  /** Whether a request of this client has to wait: there is no place, or others of the client wait already. */
  mustWait(client: string): boolean {
    return this.#lines.has(client) || !this.hasPlace(client);
  }

  /** Whether no more requests of this client may wait: its line is the longest of a full room, or they would wait in vain. */
  isFull(client: string): boolean {
    const mine = this.#lines.get(client)?.length ?? 0;
    if (this.#waiting >= this.room && mine === this.#longest().length) return true;
    return this.#expectedWait(mine + 1) > EXPECTED_MS;
  }

  /** Milliseconds until a request at this position in the line of its client enters. */
  #expectedWait(position: number): number {
    if (this.#entered.length < KNOWN) return 0;
    let turns = 1;
    for (const line of this.#lines.values()) turns += Math.min(line.length, position);
    return (turns * (this.now() - this.#entered[0]!)) / KNOWN;
  }

  /**
   * @param onGone calls back when the client leaves.
   * @param ahead it waits before the others of its client: its body has been read already.
   * @returns whether it may try to enter: there is a place, or it has waited for the longest time.
   */
  wait(client: string, onGone: (callback: () => void) => void, ahead = false): Promise<boolean> {
    if (!ahead && this.isFull(client)) return Promise.resolve(false);
    if (this.#waiting >= this.room) this.#longest().at(-1)?.settle(false);
    return new Promise((resolve) => {
      const request: WaitingRequest = {
        settle: (mayEnter) => {
          clearTimeout(timer);
          this.#remove(client, request);
          resolve(mayEnter);
        },
      };
      const timer = setTimeout(request.settle, WAIT_MS, true);
      const line = this.#lines.get(client) ?? [];
      if (ahead) line.unshift(request);
      else line.push(request);
      this.#lines.set(client, line);
      this.#waiting++;
      onGone(() => request.settle(false));
    });
  }

  /** A place has become free: the first client that may have it gets it. */
  admitNext(): void {
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

  #longest(): WaitingRequest[] {
    let longest: WaitingRequest[] = [];
    for (const line of this.#lines.values()) if (line.length > longest.length) longest = line;
    return longest;
  }

  #remove(client: string, request: WaitingRequest): void {
    const line = this.#lines.get(client);
    const at = line?.indexOf(request) ?? -1;
    if (!line || at < 0) return;
    line.splice(at, 1);
    this.#waiting--;
    if (line.length === 0) this.#lines.delete(client);
    if (this.#waiting === 0) this.#entered = [];
  }
}
