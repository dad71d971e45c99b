/** Bytes under their digest in the store: in chunks, for a time, each sent and fetched once a node. */
import type { Redis } from 'ioredis';
import { LRUCache } from 'lru-cache';
import { type BlobName, type BlobPart, blobKey, CHUNK_BYTES, MISSING } from './names.js';

export interface BlobTraffic {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly roundTrips: number;
}

interface BlobOptions {
  readonly ttlMs: number;
  readonly cacheBytes: number;
  /** SHA-256, 64 hex digits. */
  readonly digest: (bytes: Uint8Array) => Promise<string>;
}

/** What this node has of a blob. */
interface Kept {
  /** Shared. */
  readonly memory: Uint8Array;
  /** Those that are here, or on their way. */
  readonly chunks: Map<number, Promise<void>>;
  /** Fetches that wait for chunks. */
  readers: number;
}

export class Blobs {
  readonly #cache: LRUCache<string, Kept>;
  readonly #fetching = new Map<string, Kept>();
  #traffic = { bytesSent: 0, bytesReceived: 0, roundTrips: 0 };

  constructor(
    private readonly store: Redis,
    private readonly options: BlobOptions,
  ) {
    const maxSize = Math.max(1, options.cacheBytes);
    this.#cache = new LRUCache({ maxSize, sizeCalculation: ({ memory }) => memory.length + 1 });
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
  async get({ digest, bytes, at, length }: BlobPart): Promise<Uint8Array> {
    const kept = this.#cache.get(digest) ?? this.#fetching.get(digest) ?? room(bytes);
    this.#cache.set(digest, kept);
    this.#fetching.set(digest, kept);
    kept.readers++;
    try {
      const last = Math.max(at, at + length - 1);
      for (let k = Math.floor(at / CHUNK_BYTES); k * CHUNK_BYTES <= last; k++) {
        let chunk = kept.chunks.get(k);
        if (!chunk) {
          chunk = this.#fetch(digest, k, kept.memory);
          kept.chunks.set(k, chunk);
          chunk.catch(() => kept.chunks.delete(k));
        }
        await chunk;
      }
    } finally {
      kept.readers--;
      if (kept.readers === 0) this.#fetching.delete(digest);
    }
    return kept.memory.subarray(at, at + length);
  }

  getAll(name: BlobName): Promise<Uint8Array> {
    return this.get(whole(name));
  }

  /** Fetches a result, which nothing else reads: it is not kept here. */
  async take(part: BlobPart): Promise<Uint8Array> {
    const bytes = await this.get(part);
    this.#cache.delete(part.digest);
    return bytes;
  }

  takeAll(name: BlobName): Promise<Uint8Array> {
    return this.take(whole(name));
  }

  async #fetch(digest: string, k: number, memory: Uint8Array): Promise<void> {
    const [at, end] = [k * CHUNK_BYTES, Math.min((k + 1) * CHUNK_BYTES, memory.length)];
    this.#traffic.roundTrips++;
    const chunk = await this.store.getBuffer(blobKey(digest, k));
    if (chunk?.length !== end - at) throw new Error(MISSING);
    memory.set(chunk, at);
    this.#traffic.bytesReceived += chunk.length;
  }
}

const whole = (name: BlobName): BlobPart => ({ ...name, at: 0, length: name.bytes });

const room = (bytes: number): Kept => ({
  memory: new Uint8Array(new SharedArrayBuffer(bytes)),
  chunks: new Map(),
  readers: 0,
});
