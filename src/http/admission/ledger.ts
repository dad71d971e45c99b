/**
 * Who is in the house and what it holds: places, bytes that have arrived or wait to be read, and the
 * computing that is still to be done. Nothing is held on a promise, and one client cannot keep others out:
 * beyond the limits there is a reserve as large again for those that have less than their share.
 */
import { Problem } from '../../errors.js';

export interface LedgerLimits {
  /** Requests that compute or wait to. */
  readonly maxRequests: number;
  /** Bytes of bodies that have arrived, of tensors that they refer to, and of answers not yet sent. */
  readonly maxInflightBytes: number;
  /** Worker threads. */
  readonly workers: number;
  /** Longest time that a request may be expected to wait for the others. */
  readonly maxWaitSeconds: number;
}

interface Held {
  requests: number;
  bytes: number;
}

export class Ledger {
  readonly #clients = new Map<string, Held>();
  readonly #working = new Set<Entry>();
  /** Let in, but not here with their bodies yet. */
  readonly #coming = new Set<Entry>();
  #bytes = 0;

  /** @param onFree a place is free, or one that was offered is not taken. */
  constructor(
    readonly limits: LedgerLimits,
    private readonly onFree: () => void,
  ) {}

  /** Requests that compute or wait to, from the last byte of their bodies. */
  get requests(): number {
    return this.#working.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Seconds until what is accepted is done. */
  get backlog(): number {
    let seconds = 0;
    for (const entry of this.#working) seconds += entry.seconds;
    return seconds / this.limits.workers;
  }

  /**
   * A request whose head has come; `announced` is what it says that it will send.
   *
   * @throws {Problem} queue-full when it could not be taken now: better told before the body is sent.
   */
  enter(client: string, announced: number): Entry {
    this.#requirePlace(client);
    const { maxInflightBytes } = this.limits;
    // What could never be let in is refused as too large when it is read, not as too much for now.
    if (announced <= maxInflightBytes) this.#requireBytes(announced);
    const entry = new Entry(this, client);
    this.#coming.add(entry);
    return entry;
  }

  /** Whether there is a place for a request of this client. */
  hasPlace(client: string): boolean {
    return this.requests < this.#placesFor(client);
  }

  /** @throws {Problem} queue-full */
  hold(entry: Entry, more: number): void {
    this.#requireBytes(more);
    this.count(entry, more);
  }

  /** What is held already, whatever the limits. */
  count(entry: Entry, more: number): void {
    this.#bytes += more;
    this.#held(entry.client).bytes += more;
  }

  /** From now on it has a place. @throws {Problem} queue-full when there is none. */
  seat(entry: Entry): void {
    if (this.#working.has(entry)) return;
    this.#requirePlace(entry.client);
    this.#coming.delete(entry);
    this.#working.add(entry);
    this.#held(entry.client).requests++;
  }

  /** @throws {Problem} queue-full when there is no place, or the wait for others would be too long. */
  begin(entry: Entry): void {
    this.seat(entry);
    const { workers, maxWaitSeconds } = this.limits;
    // Workers take turns: nobody waits for more of another request than it has work itself.
    let wait = 0;
    for (const other of this.#working) wait += Math.min(other.seconds, entry.seconds);
    wait = (wait - entry.seconds) / workers;
    if (wait > maxWaitSeconds) {
      throw this.busy('Expected wait, seconds', maxWaitSeconds, Math.ceil(wait));
    }
  }

  end(entry: Entry): void {
    const worked = this.#working.delete(entry);
    if (worked) this.#held(entry.client).requests--;
    this.#forget(entry.client);
    if (this.#coming.delete(entry) || worked) this.onFree();
  }

  #requirePlace(client: string): void {
    if (this.hasPlace(client)) return;
    throw this.busy('Requests in flight', this.#placesFor(client), this.requests + 1);
  }

  #placesFor(client: string): number {
    const { maxRequests } = this.limits;
    const mine = this.#clients.get(client)?.requests ?? 0;
    const others = this.#clients.size - (this.#clients.has(client) ? 1 : 0);
    const share = maxRequests / (others + 1);
    return mine < share && others > 0 ? 2 * maxRequests : maxRequests;
  }

  #requireBytes(more: number): void {
    const { maxInflightBytes } = this.limits;
    const total = this.#bytes + more;
    if (total <= maxInflightBytes) return;
    throw this.busy('Bytes of all requests in flight', maxInflightBytes, total);
  }

  /** What is said to who may come again. */
  busy(what: string, limit: number, actual: number): Problem {
    const seconds = Math.min(600, Math.max(1, Math.ceil(this.backlog / 2)));
    return new Problem(
      'queue-full',
      `${what}: ${actual}, the limit is ${limit}. Try again later.`,
      {
        limit,
        actual,
        headers: { 'retry-after': String(seconds) },
      },
    );
  }

  #held(client: string): Held {
    let held = this.#clients.get(client);
    if (!held) {
      held = { requests: 0, bytes: 0 };
      this.#clients.set(client, held);
    }
    return held;
  }

  #forget(client: string): void {
    const held = this.#clients.get(client);
    if (held && held.requests === 0 && held.bytes === 0) this.#clients.delete(client);
  }
}

/** One request. */
export class Entry {
  #bytes = 0;
  #seconds = 0;
  #left = false;

  constructor(
    private readonly ledger: Ledger,
    readonly client: string,
  ) {}

  /** Of computing, as expected. */
  get seconds(): number {
    return this.#seconds;
  }

  /** @throws {Problem} queue-full when that is too much beside the others. */
  holdMore(bytes: number): void {
    if (this.#left) return;
    this.ledger.hold(this, bytes);
    this.#bytes += bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Its body is here and waits to be decoded: were that no place, any number could wait.
   *
   * @throws {Problem} queue-full
   */
  arrive(): void {
    // What was read of its body may come to an end after its client has gone.
    if (this.#left) return;
    this.ledger.seat(this);
  }

  /**
   * Its body is priced.
   *
   * @throws {Problem} queue-full
   */
  begin(seconds: number): void {
    this.#seconds = seconds;
    if (!this.#left) this.ledger.begin(this);
  }

  /** Nothing is computed for it any more; the body is gone and `answerBytes` wait to be read. */
  computed(answerBytes: number): void {
    this.ledger.end(this);
    if (!this.#left) this.#replace(answerBytes);
  }

  /** The connection has no more to do with it. */
  leave(): void {
    this.#left = true;
    this.#replace(0);
    this.ledger.end(this);
  }

  #replace(bytes: number): void {
    // What is there already is counted, not refused.
    this.ledger.count(this, bytes - this.#bytes);
    this.#bytes = bytes;
  }
}
