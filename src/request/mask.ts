/** Makes the mask that kernels take from the keys of a request that describe one. */

import { keyRanges, type Mask, packedSequences, type Sequences } from '../../workers/mask.js';
import type { Dimensions } from '../../workers/problem.js';
import { decodeTensor } from '../../workers/tensor/decode.js';
import { isEncodedTensor } from '../../workers/tensor/encoded.js';
import { allocateTensor, type GivenTensor, type Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { ForwardRequest } from './request.js';
import { formatShape, nameOf, shapeMismatch } from './shapes.js';

/** The few numbers are decoded here and now: how a problem is cut depends on them. */
function decoded(given: GivenTensor): Tensor {
  if (!isEncodedTensor(given)) return given;
  const tensor = allocateTensor(given.dtype, given.shape);
  decodeTensor(given.bytes, given.dtype, tensor.data);
  return tensor;
}

/** @throws {Problem} unless the tensor holds `count` integers from `least` to `most`. */
function integersOf(
  pointer: string,
  given: GivenTensor,
  [count, each]: readonly [number, string],
  [least, most, bound]: readonly [number, number, string],
): number[] {
  if (given.shape.join() !== String(count)) {
    throw shapeMismatch(pointer, given, `${each}: shape ${formatShape([count])}.`);
  }
  const numbers = Array.from(decoded(given).data);
  const wrong = numbers.findIndex((n) => !Number.isInteger(n) || n < least || n > most);
  if (wrong < 0) return numbers;
  throw new Problem(
    'invalid-value',
    `${nameOf(pointer)} holds ${numbers[wrong]} at index ${wrong}; it must be an integer from ${least} to ${bound}.`,
    { pointer: `${pointer}/${wrong}` },
  );
}

function parseWindow(request: ForwardRequest): Pick<Mask, 'left' | 'right'> {
  const given = request.window;
  const size = [2, 'two integers are needed, left and right'] as const;
  const bounds = [-1, 2 ** 31 - 1, '2147483647, or -1 for no limit'] as const;
  const window = given ? integersOf('/window', given, size, bounds) : [-1, -1];
  const [left, right] = window.map((n) => (n < 0 ? Number.POSITIVE_INFINITY : n));
  return { left, right: request.is_causal ? 0 : right };
}

/** Keys [first, last) of each batch item that are no padding; undefined: all of them. */
function parsePadding(
  { first_keys, key_lengths }: ForwardRequest,
  { batch, keyLength }: Dimensions,
): Mask['keys'] {
  if (!first_keys && !key_lengths) return undefined;
  const read = (pointer: string, given: GivenTensor | undefined, otherwise: number) =>
    given
      ? integersOf(
          pointer,
          given,
          [batch, 'one integer for each batch item is needed'],
          [0, keyLength, `Lk = ${keyLength}`],
        )
      : new Array<number>(batch).fill(otherwise);
  const first = read('/first_keys', first_keys, 0);
  const last = read('/key_lengths', key_lengths, keyLength);
  return keyRanges(last.map((end, item) => ({ first: Math.min(first[item], end), last: end })));
}

/** The lists of the batch items, or one for all: as lists, or as the rows of one array. */
function listsOf(given: GivenTensor | GivenTensor[]): GivenTensor[] {
  if (Array.isArray(given)) return given;
  if (given.shape.length !== 2) return [given];
  const [rows, columns] = given.shape;
  const { dtype, data } = decoded(given);
  return Array.from({ length: rows }, (_, row) => ({
    ...{ dtype, shape: [columns], data: data.subarray(row * columns, (row + 1) * columns) },
  }));
}

function parseSequences(
  { sequence_lengths: given }: ForwardRequest,
  { batch, queryLength, keyLength }: Dimensions,
): Sequences | undefined {
  if (!given) return undefined;
  const pointer = '/sequence_lengths';
  if (queryLength !== keyLength) {
    throw new Problem(
      'shape-mismatch',
      `sequence_lengths cut queries and keys at the same positions, but Lq = ${queryLength} and Lk = ${keyLength}.`,
      { pointer },
    );
  }
  const lists = listsOf(given);
  if (lists.length !== 1 && lists.length !== batch) {
    throw new Problem(
      'shape-mismatch',
      `sequence_lengths has ${lists.length} lists; one, or one for each of B = ${batch} batch items, is needed.`,
      { pointer },
    );
  }
  const ends = lists.map((list, item) => {
    const at = lists === given || lists.length > 1 ? `${pointer}/${item}` : pointer;
    if (list.shape.length !== 1) throw shapeMismatch(at, list, 'a list of integers is needed.');
    const count = [list.shape[0], 'a list of integers is needed'] as const;
    let end = 0;
    const ends = integersOf(at, list, count, [1, keyLength, `L = ${keyLength}`]).map((n) => {
      end += n;
      return end;
    });
    if (end === keyLength) return ends;
    throw new Problem(
      'invalid-value',
      `${nameOf(at)} has the sum ${end}; it must be L = ${keyLength}.`,
      { pointer: at, limit: keyLength, actual: end },
    );
  });
  return packedSequences(ends);
}

/** @throws {Problem} with a pointer to the key at fault. */
export function parseMask(request: ForwardRequest, dims: Dimensions): Mask {
  const keys = parsePadding(request, dims);
  const sequences = parseSequences(request, dims);
  return {
    ...parseWindow(request),
    ...(keys && { keys }),
    ...(sequences && { sequences }),
  };
}
