/**
 * What accepted requests hold: places, bytes that have arrived or wait to be read, and work that is still to be done. Bytes that are
 * only announced are not counted, and one client cannot keep others out (share.ts).
 */
import { Problem } from '../../errors.js';
import { limitFor } from './share.js';

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
  /** Accepted by their heads; their bodies are still on the way. */
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

  /** Seconds until all accepted work is done, as predicted. */
  get backlog(): number {
    let seconds = 0;
    for (const entry of this.#working) seconds += entry.seconds;
    return seconds / this.limits.workers;
  }

  /**
   * A request whose head has come; `announced` is its Content-Length.
   *
   * @throws {Problem} queue-full when it cannot be taken now, so that its body need not be sent.
   */
  enter(client: string, announced: number): Entry {
    this.#requirePlace(client);
    const { maxInflightBytes } = this.limits;
    // What could never be let in is refused as too large when it is read, not as too much for now.
    if (announced <= maxInflightBytes) this.#requireBytes(client, announced);
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
    this.#requireBytes(entry.client, more);
    this.count(entry, more);
  }

  /** Adds bytes that are held already, whatever the limits. */
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
    // Workers take turns between requests: nobody waits for more of another one than it has work itself.
    const work = new Map<string, number>();
    for (const { client, seconds } of this.#working) {
      work.set(client, (work.get(client) ?? 0) + Math.min(seconds, entry.seconds));
    }
    // And before that between clients, so for no more of another client than its own has.
    const mine = work.get(entry.client)!;
    let wait = -entry.seconds;
    for (const seconds of work.values()) wait += Math.min(seconds, mine);
    wait /= workers;
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
    return this.#limitFor('requests', client, 1, this.limits.maxRequests);
  }

  #requireBytes(client: string, more: number): void {
    const limit = this.#limitFor('bytes', client, more, this.limits.maxInflightBytes);
    const total = this.#bytes + more;
    if (total <= limit) return;
    throw this.busy('Bytes of all requests in flight', limit, total);
  }

  #limitFor(what: keyof Held, client: string, more: number, limit: number): number {
    const mine = (this.#clients.get(client)?.[what] ?? 0) + more;
    const others = this.#clients.size - (this.#clients.has(client) ? 1 : 0);
    return limitFor({ limit, mine, others });
  }

  /** The refusal of a request that may be sent again. */
  busy(what: string, limit: number, actual: number): Problem {
    const seconds = Math.min(600, Math.max(1, Math.ceil(this.backlog / 2)));
    return new Problem(
      'queue-full',
      `${what}: ${actual}, the limit is ${limit}. Try again in ${seconds} s.`,
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

  /** Predicted seconds of computing. */
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
   * Its body is priced. The answer will take the place of the body: if it is larger, there is room for it from now on, so that
   * answers which nobody reads are no more than what may be in flight.
   *
   * @throws {Problem} queue-full
   */
  begin(seconds: number, answerBytes: number): void {
    this.#seconds = seconds;
    if (this.#left) return;
    this.ledger.begin(this);
    this.holdMore(Math.max(0, answerBytes - this.#bytes));
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
