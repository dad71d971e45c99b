/** One tensor on its way into the store: its digest is verified, then it is decoded. */

import type { Job } from '../../workers/job.js';
import { sharedFloat32, sharedFloat64 } from '../../workers/kernels/result.js';
import { digestJob } from '../../workers/tasks/digest.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { PhaseClock } from '../solver/phases.js';
import { decodePhase } from './decode-phase.js';

/** What is kept does not go to the next request. */
const KEPT = { float32: sharedFloat32, float64: sharedFloat64 };

/**
 * @param digest what the client says that it is, 64 hex digits.
 * @param clock told of each phase that is over.
 * @throws {Problem} digest-mismatch, or not-finite.
 */
export function* storeJob(digest: string, encoded: EncodedTensor, clock: PhaseClock): Job<Tensor> {
  const actual = yield* digestJob(encoded);
  if (actual !== digest) {
    throw new Problem(
      'digest-mismatch',
      `The digest of this ${encoded.dtype} tensor of shape [${encoded.shape.join(', ')}] is ${actual}, not ${digest}.`,
    );
  }
  const { dtype, shape, bytes } = encoded;
  const tensor: Tensor = { dtype, shape, data: new Float32Array(0) };
  yield* decodePhase([{ pointer: '', bytes, givenShape: shape, tensor }], KEPT);
  clock('decode');
  return tensor;
}
