/**
 * Memory for computations, by what their prices say: who does not fit waits for those before it to end.
 * Clients take turns; small requests have a part of the memory to themselves, so that they never wait
 * for a large one.
 */

/** Shares of the memory: up to which a request counts as small, and what is reserved for small ones. */
const SMALL = 1 / 256;
const KEPT_FOR_SMALL = 1 / 8;

interface Waiting {
  readonly client: string;
  readonly bytes: number;
  grant(): void;
}

export class MemoryQueue {
  #waiting: Waiting[] = [];
  /** Bytes of the large ones that run, and of all. */
  #large = 0;
  #all = 0;
  readonly #byClient = new Map<string, number>();

  constructor(readonly limit: number) {}

  /** Bytes that running computations may take. */
  get used(): number {
    return this.#all;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Resolves when there is room; then `give` has to follow.
   *
   * @param bytes at most `limit`
   */
  take(client: string, bytes: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const stop = () => {
        this.#waiting = this.#waiting.filter((other) => other !== mine);
        reject(signal.reason);
        this.#pump();
      };
      const mine: Waiting = { client, bytes, grant: resolve };
      this.#waiting.push(mine);
      this.#pump();
      // Most are granted at once. Whatever stops one later finds nothing to do here.
      if (this.#waiting.includes(mine)) signal.addEventListener('abort', stop, { once: true });
    });
  }

  give(client: string, bytes: number): void {
    this.#book(client, -bytes);
    this.#pump();
  }

  #pump(): void {
    for (let next = this.#next(); next; next = this.#next()) {
      const granted = next;
      this.#waiting = this.#waiting.filter((other) => other !== granted);
      this.#book(granted.client, granted.bytes);
      granted.grant();
    }
  }

  /** Any small one that fits; else the first of the client that has least, if it fits. */
  #next(): Waiting | undefined {
    const small = this.#waiting.find(
      ({ bytes }) => this.#isSmall(bytes) && this.#all + bytes <= this.limit,
    );
    if (small) return small;
    const having = ({ client }: Waiting) => this.#byClient.get(client) ?? 0;
    const [first, ...rest] = this.#waiting.filter(({ bytes }) => !this.#isSmall(bytes));
    if (!first) return undefined;
    const least = rest.reduce((a, b) => (having(b) < having(a) ? b : a), first);
    const room = this.limit * (1 - KEPT_FOR_SMALL);
    // Alone, a large one may take what is kept for small ones too.
    return this.#large === 0 || this.#large + least.bytes <= room ? least : undefined;
  }

  #isSmall(bytes: number): boolean {
    return bytes <= SMALL * this.limit;
  }

  #book(client: string, bytes: number): void {
    this.#all += bytes;
    if (!this.#isSmall(Math.abs(bytes))) this.#large += bytes;
    const left = (this.#byClient.get(client) ?? 0) + bytes;
    if (left > 0) this.#byClient.set(client, left);
    else this.#byClient.delete(client);
  }
}
