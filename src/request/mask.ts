/** From the keys of a request that mask to the one description that kernels take. */

import type { Mask } from '../../workers/mask.js';
import type { Dimensions } from '../../workers/problem.js';
import { decodeTensor } from '../../workers/tensor/decode.js';
import { isEncodedTensor } from '../../workers/tensor/encoded.js';
import { allocateTensor, type GivenTensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { ForwardRequest } from './request.js';
import { shapeMismatch } from './shapes.js';

/** The few numbers are decoded here and now: how a problem is cut depends on them. */
function numbersOf(given: GivenTensor): number[] {
  if (!isEncodedTensor(given)) return Array.from(given.data);
  const { data } = allocateTensor(given.dtype, given.shape);
  decodeTensor(given.bytes, given.dtype, data);
  return Array.from(data);
}

/** @throws {Problem} unless there is one integer in [1, Lk] for each batch item. */
function parseKeyLengths(given: GivenTensor, { batch, keyLength }: Dimensions): readonly number[] {
  if (given.shape.join() !== String(batch)) {
    throw shapeMismatch(
      '/key_lengths',
      given,
      `one integer for each batch item is needed: shape (${batch},).`,
    );
  }
  const lengths = numbersOf(given);
  const wrong = lengths.findIndex((n) => !Number.isInteger(n) || n < 1 || n > keyLength);
  if (wrong < 0) return lengths;
  throw new Problem(
    'invalid-value',
    `key_lengths holds ${lengths[wrong]} for batch item ${wrong}; it must be an integer from 1 to Lk = ${keyLength}.`,
    { pointer: `/key_lengths/${wrong}` },
  );
}

/** @throws {Problem} with a pointer to the key at fault. */
export function parseMask(request: ForwardRequest, dims: Dimensions): Mask {
  const lengths = request.key_lengths && parseKeyLengths(request.key_lengths, dims);
  return {
    left: Number.POSITIVE_INFINITY,
    right: request.is_causal ? 0 : Number.POSITIVE_INFINITY,
    ...(lengths && { keys: lengths.map((last) => ({ first: 0, last })) }),
  };
}
