/** A large value in a hash of the store: in chunks, each under the place of its first byte. */
import type { Redis } from 'ioredis';
import { CHUNK_BYTES, MISSING } from '../cluster/names.js';

export async function writeChunks(
  store: Redis,
  key: string,
  { buffer, byteOffset, byteLength }: ArrayBufferView,
  ttlMs: number,
): Promise<void> {
  for (let at = 0; at < byteLength; at += CHUNK_BYTES) {
    const length = Math.min(CHUNK_BYTES, byteLength - at);
    const chunk = Buffer.from(buffer as ArrayBuffer, byteOffset + at, length);
    await writeField(store, key, String(at), chunk, ttlMs);
  }
}

export async function writeField(
  store: Redis,
  key: string,
  field: string,
  value: string | Buffer,
  ttlMs: number,
): Promise<void> {
  await store.hset(key, field, value);
  await store.pexpire(key, ttlMs);
}

/** @throws {Error} MISSING when the store does not have all of it any more. */
export async function* readChunks(
  store: Redis,
  key: string,
  length: number,
): AsyncGenerator<Buffer> {
  for (let at = 0; at < length; at += CHUNK_BYTES) {
    const chunk = await store.hgetBuffer(key, String(at));
    if (chunk?.length !== Math.min(CHUNK_BYTES, length - at)) throw new Error(MISSING);
    yield chunk;
  }
}
