/** The first phase of every request: its tensors are decoded and searched for NaN and infinity. */

import type { Job } from '../../workers/job.js';
import { decodeJob } from '../../workers/tasks/decode.js';
import type { Lease } from '../../workers/tensor/shared-memory.js';
import { elementCount, type Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../request/intake.js';
import { nameOf } from '../request/shapes.js';

type Memory = Pick<Lease, 'float32' | 'float64'>;

/**
 * @param memory for the tensors.
 * @throws {Problem} naming the tensor and the first index, when a tensor is not finite.
 */
export function* decodePhase(pending: readonly PendingTensor[], memory: Memory): Job<void> {
  const found = yield* decodeJob(
    pending.map(({ pointer, bytes, tensor }) => {
      const { dtype } = tensor;
      return { pointer, dtype, bytes, target: furnish(tensor, memory) };
    }),
  );
  if (!found) return;
  const { pointer, index, value } = found;
  const { givenShape } = pending.find((one) => one.pointer === pointer)!;
  throw new Problem(
    'not-finite',
    `${nameOf(pointer)} holds ${value} at [${coordinates(index, givenShape).join(', ')}] (flat index ${index}, row-major).`,
    { pointer },
  );
}

/** Where the element is that has this index in row-major order. */
function coordinates(index: number, shape: readonly number[]): number[] {
  let rest = index;
  return shape
    .toReversed()
    .map((size) => {
      const at = rest % size;
      rest = (rest - at) / size;
      return at;
    })
    .reverse();
}

function furnish(tensor: { -readonly [Key in keyof Tensor]: Tensor[Key] }, memory: Memory) {
  const count = elementCount(tensor.shape);
  tensor.data = tensor.dtype === 'float64' ? memory.float64(count) : memory.float32(count);
  return tensor.data;
}
