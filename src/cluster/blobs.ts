/** Bytes under their digest in the store: in chunks, for a time, sent and fetched once a node. */
import type { Redis } from 'ioredis';
import { LRUCache } from 'lru-cache';
import { type BlobName, blobKey, CHUNK_BYTES, MISSING } from './names.js';

export interface BlobTraffic {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly roundTrips: number;
}

export interface BlobOptions {
  readonly ttlMs: number;
  readonly cacheBytes: number;
  /** SHA-256, 64 hex digits. */
  readonly digest: (bytes: Uint8Array) => Promise<string>;
}

export class Blobs {
  readonly #cache: LRUCache<string, Uint8Array>;
  readonly #fetching = new Map<string, Promise<Uint8Array>>();
  #traffic = { bytesSent: 0, bytesReceived: 0, roundTrips: 0 };

  constructor(
    private readonly store: Redis,
    private readonly options: BlobOptions,
  ) {
    const maxSize = Math.max(1, options.cacheBytes);
    this.#cache = new LRUCache({ maxSize, sizeCalculation: ({ length }) => length + 1 });
  }

  get traffic(): BlobTraffic {
    return this.#traffic;
  }

  /** Keeps the bytes in the store; sent only if they are not there, and as long as the signal lets them. */
  async put(bytes: Uint8Array, signal?: AbortSignal): Promise<BlobName> {
    const digest = await this.options.digest(bytes);
    const chunks = Math.max(1, Math.ceil(bytes.length / CHUNK_BYTES));
    for (let k = 0; k < chunks; k++) {
      signal?.throwIfAborted();
      const key = blobKey(digest, k);
      this.#traffic.roundTrips++;
      if ((await this.store.pexpire(key, this.options.ttlMs)) === 1) continue;
      const chunk = bytes.subarray(k * CHUNK_BYTES, (k + 1) * CHUNK_BYTES);
      const value = Buffer.from(chunk.buffer as ArrayBuffer, chunk.byteOffset, chunk.length);
      this.#traffic.roundTrips++;
      this.#traffic.bytesSent += chunk.length;
      await this.store.set(key, value, 'PX', this.options.ttlMs);
    }
    return { digest, bytes: bytes.length };
  }

  /**
   * In shared memory, which must not be written to.
   *
   * @throws {Error} MISSING when the store does not have it.
   */
  async get(name: BlobName): Promise<Uint8Array> {
    const kept = this.#cache.get(name.digest);
    if (kept) return kept;
    let fetching = this.#fetching.get(name.digest);
    if (!fetching) {
      fetching = this.#fetch(name).finally(() => this.#fetching.delete(name.digest));
      this.#fetching.set(name.digest, fetching);
    }
    return fetching;
  }

  /** The bytes that were fetched are used by nobody else: results. */
  async take(name: BlobName): Promise<Uint8Array> {
    const bytes = await this.get(name);
    this.#cache.delete(name.digest);
    return bytes;
  }

  async #fetch({ digest, bytes }: BlobName): Promise<Uint8Array> {
    const memory = new Uint8Array(new SharedArrayBuffer(bytes));
    for (let k = 0, at = 0; k === 0 || at < bytes; k++) {
      this.#traffic.roundTrips++;
      const chunk = await this.store.getBuffer(blobKey(digest, k));
      if (!chunk || chunk.length !== Math.min(CHUNK_BYTES, bytes - at)) throw new Error(MISSING);
      memory.set(chunk, at);
      at += chunk.length;
      this.#traffic.bytesReceived += chunk.length;
    }
    this.#cache.set(digest, memory);
    return memory;
  }
}
