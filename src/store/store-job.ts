/** One tensor on its way into the store: its digest is verified, then it is decoded. */
import { digestJob } from '../../workers/digest.js';
import type { Job } from '../../workers/kernels/job.js';
import { Problem } from '../errors.js';
import { decodePhase } from '../plan/decode-phase.js';
import type { PhaseClock } from '../plan/phases.js';
import type { EncodedTensor } from '../tensor/encoded.js';
import { allocateTensor, type Tensor } from '../tensor/tensor.js';

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
  const tensor = allocateTensor(dtype, shape);
  yield* decodePhase([{ pointer: '', dtype, bytes, target: tensor.data }]);
  clock('decode');
  return tensor;
}
