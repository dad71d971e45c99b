/** What the holder of an API key may use: so much a minute, with a minute's worth at once. */
import { Problem } from '../../errors.js';
import type { Keeper } from '../../store/known-tensors.js';

export interface Quota {
  /** Requests that compute, a minute. */
  readonly requests?: number;
  /** Bytes of bodies, a minute. */
  readonly bytes?: number;
  /** Bytes of tensors in the store. */
  readonly stored?: number;
}

/** Whose tensors a request means, and how many bytes of them a store of `limit` bytes keeps. */
export function keeperOf(
  { owner, quota }: { readonly owner: string; readonly quota: Quota },
  limit: number,
): Keeper {
  return { owner, quota: Math.min(limit, quota.stored ?? limit) };
}

export const QUOTA_NAMES = ['requests', 'bytes', 'stored'] as const satisfies (keyof Quota)[];

const MINUTE_MS = 60_000;

/** Fills up evenly; what is taken may exceed what is there, and is then waited for. */
class Bucket {
  #level: number;
  #seen: number;

  constructor(
    readonly perMinute: number,
    now: number,
  ) {
    this.#level = perMinute;
    this.#seen = now;
  }

  /** Milliseconds until something may be taken again; 0: now. */
  wait(now: number): number {
    this.#fill(now);
    return this.#level > 0 ? 0 : (MINUTE_MS * (1 - this.#level)) / this.perMinute;
  }

  take(amount: number, now: number): void {
    this.#fill(now);
    this.#level -= amount;
  }

  #fill(now: number): void {
    const added = (this.perMinute * (now - this.#seen)) / MINUTE_MS;
    this.#level = Math.min(this.perMinute, this.#level + added);
    this.#seen = now;
  }
}

/** How much of what each key has used. */
export class Usage {
  readonly #buckets = new Map<string, Bucket>();

  /** @throws {Problem} quota-exceeded when the quotas of requests or bytes are used up. */
  begin(name: string, { requests, bytes }: Quota): void {
    const now = performance.now();
    this.#require('requests', name, requests, now);
    this.#require('bytes', name, bytes, now);
    if (requests !== undefined) this.#bucket('requests', name, requests, now).take(1, now);
  }

  /** Bytes of a body that have arrived. */
  spend(name: string, { bytes }: Quota, amount: number): void {
    const now = performance.now();
    if (bytes !== undefined) this.#bucket('bytes', name, bytes, now).take(amount, now);
  }

  #require(
    what: 'requests' | 'bytes',
    name: string,
    perMinute: number | undefined,
    now: number,
  ): void {
    if (perMinute === undefined) return;
    const wait = this.#bucket(what, name, perMinute, now).wait(now);
    if (wait === 0) return;
    const shown = what === 'requests' ? 'requests' : 'bytes of bodies';
    throw new Problem(
      'quota-exceeded',
      `This API key has used its quota of ${perMinute} ${shown} a minute.`,
      { limit: perMinute, headers: { 'retry-after': String(Math.ceil(wait / 1000)) } },
    );
  }

  #bucket(what: string, name: string, perMinute: number, now: number): Bucket {
    const id = `${what} ${name}`;
    let bucket = this.#buckets.get(id);
    // The file of keys may have changed.
    if (bucket?.perMinute !== perMinute) {
      bucket = new Bucket(perMinute, now);
      this.#buckets.set(id, bucket);
    }
    return bucket;
  }
}
