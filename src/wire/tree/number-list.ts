import { type EncodedTensor, encodedTensor } from '../../../workers/tensor/encoded.js';
import { elementCount } from '../../../workers/tensor/tensor.js';
import { appendPointer, placeName, WireError } from './wire-error.js';
import { MAX_DIMENSIONS } from './wire-limits.js';

/** True for a non-empty array whose first leaf is a number. */
export function isNumberList(list: readonly unknown[]): boolean {
  let first: unknown = list[0];
  while (Array.isArray(first)) first = first[0];
  return typeof first === 'number';
}

/**
 * Nested lists of numbers, as a float32 tensor in shared memory of its own.
 * The shape is that of the first entries; throws WireError (invalid-tensor) where a later one differs.
 */
export function readNumberList(
  list: readonly unknown[],
  maxElements: number,
  pointer: string,
): EncodedTensor {
  const shape: number[] = [];
  for (let first: unknown = list; Array.isArray(first); first = first[0]) shape.push(first.length);
  if (shape.length > MAX_DIMENSIONS) {
    throw new WireError(
      'invalid-tensor',
      pointer,
      `The list at ${placeName(pointer)} is nested ${shape.length} deep; a tensor has at most ${MAX_DIMENSIONS} dimensions.`,
      { limit: MAX_DIMENSIONS, actual: shape.length },
    );
  }
  const count = elementCount(shape);
  // The body has at most maxElements numbers, so a larger product belongs to a ragged list: only look
  // for the place where it is ragged, and allocate nothing.
  const data = new Float32Array(new SharedArrayBuffer(count > maxElements ? 0 : count * 4));
  fill(list, shape, 0, data, 0, pointer);
  return encodedTensor('float32', shape, new Uint8Array(data.buffer));
}

/** Copies `list` to data[offset..] and returns the offset after it. */
function fill(
  list: readonly unknown[],
  shape: readonly number[],
  dimension: number,
  data: Float32Array,
  offset: number,
  pointer: string,
): number {
  if (list.length !== shape[dimension]) {
    throw new WireError(
      'invalid-tensor',
      pointer,
      `The list at ${placeName(pointer)} has ${list.length} entries where its first neighbour has ${shape[dimension]}; a tensor must not be ragged.`,
      { limit: shape[dimension], actual: list.length },
    );
  }
  let next = offset;
  const innermost = dimension === shape.length - 1;
  for (let i = 0; i < list.length; i++) {
    const item = list[i];
    if (innermost && typeof item === 'number') {
      data[next] = item;
      if (!Number.isFinite(data[next]) && Number.isFinite(item)) throw tooLarge(item, pointer, i);
      next++;
    } else if (!innermost && Array.isArray(item)) {
      next = fill(item, shape, dimension + 1, data, next, appendPointer(pointer, i));
    } else {
      const place = appendPointer(pointer, i);
      throw new WireError(
        'invalid-tensor',
        place,
        `The entry at ${place} is ${describe(item)} where the first entry of the list is ${innermost ? 'a number' : 'a list'}.`,
      );
    }
  }
  return next;
}

function tooLarge(item: number, pointer: string, index: number): WireError {
  const place = appendPointer(pointer, index);
  const sentence = `${item} at ${place} is too large for float32, which lists of numbers become; send {dtype: float64, shape, data}.`;
  return new WireError('invalid-value', place, sentence);
}

function describe(item: unknown): string {
  if (item === null) return 'null';
  if (Array.isArray(item)) return 'a list';
  if (item instanceof Uint8Array) return 'raw bytes';
  return typeof item === 'object' ? 'a map' : `a ${typeof item}`;
}
