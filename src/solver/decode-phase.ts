/** The first phase of every request: its tensors are decoded and searched for NaN and infinity. */

import type { Job } from '../../workers/job.js';
import { decodeJob } from '../../workers/tasks/decode.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../request/intake.js';
import { nameOf } from '../request/shapes.js';

/** @throws {Problem} naming the tensor and the first index, when a tensor is not finite. */
export function* decodePhase(pending: readonly PendingTensor[]): Job<void> {
  const found = yield* decodeJob(pending);
  if (!found) return;
  const { pointer, index, value } = found;
  throw new Problem(
    'not-finite',
    `${nameOf(pointer)} holds ${value} at flat index ${index} (row-major).`,
    { pointer },
  );
}
