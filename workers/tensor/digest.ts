/**
 * The digest that names a tensor: SHA-256 of `{dtype}\n{shape}\n` in ASCII, where dtype is the torch name
 * and shape the sizes joined by commas ("float32\n512,64\n"), followed by the data, little endian and
 * row-major. It does not depend on how the tensor was written on the wire.
 */
import { createHash } from 'node:crypto';
import type { EncodedTensor } from './encoded.js';

/** Hashed in one go: some 5 ms. */
const CHUNK_BYTES = 8 * 1024 * 1024;

/**
 * @param beforeChunk called every few milliseconds; may throw to give up.
 * @returns 64 lower-case hex digits.
 */
export function tensorDigest(
  { dtype, shape, bytes }: EncodedTensor,
  beforeChunk: () => void = () => {},
): string {
  const hash = createHash('sha256').update(`${dtype}\n${shape.join(',')}\n`);
  for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
    beforeChunk();
    hash.update(bytes.subarray(start, start + CHUNK_BYTES));
  }
  return hash.digest('hex');
}
