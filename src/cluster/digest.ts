/** SHA-256 by a worker thread: a second of work for a gigabyte or two. */
import { digestJob } from '../../workers/tasks/digest.js';
import { tensorDigest } from '../../workers/tensor/digest.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';
import type { Executor } from '../pool/executor.js';

/** Less is hashed here: the way to a thread would take longer. */
const SMALL_BYTES = 2 ** 18;

export function digestOn(pool: Executor): (bytes: Uint8Array) => Promise<string> {
  return async (bytes) => {
    const encoded = encodedTensor('float32', [bytes.length], bytes);
    if (bytes.length < SMALL_BYTES) return tensorDigest(encoded);
    // Nobody cancels it. A signal that all shared would keep every one of them.
    const { signal } = new AbortController();
    return pool.run(digestJob(encoded), { signal, owner: 'digest' });
  };
}
