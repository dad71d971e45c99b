/** The digest of one tensor: a second of work for a gigabyte or two, so it is done in a worker. */

import { type Cancelled, CancelledError, type Job, type Task } from '../job.js';
import { tensorDigest } from '../tensor/digest.js';
import type { Dtype } from '../tensor/dtype.js';
import type { EncodedTensor } from '../tensor/encoded.js';

export interface DigestTask extends Task {
  readonly kernel: 'digest';
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** @returns 64 lower-case hex digits. */
export function runDigestTask(task: DigestTask, cancelled: Cancelled): string {
  return tensorDigest(task, () => {
    if (cancelled()) throw new CancelledError();
  });
}

export function* digestJob({ dtype, shape, bytes }: EncodedTensor): Job<string, DigestTask> {
  const task: DigestTask = { kernel: 'digest', dtype, shape, bytes };
  const [digest] = yield { name: 'digest', tasks: [task] };
  return digest as string;
}
