/** Tensor maps: {dtype, shape, data} under string keys, and what msgpack-numpy writes. */
import {
  ACCEPTED_DTYPES,
  type Dtype,
  ITEM_SIZE,
  isBigEndian,
  parseDtype,
} from '../../../workers/tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../../../workers/tensor/encoded.js';
import { integerType, isFewIntegers, readIntegers } from './integer-array.js';
import { NUMPY_SCALARS } from './numpy-scalar.js';
import { quote } from './quote.js';
import { checkLength, readBase64, readBytes, refuse } from './tensor-bytes.js';
import { appendPointer, placeName } from './wire-error.js';
import { MAX_DIMENSIONS } from './wire-limits.js';
import type { WireMap } from './wire-map.js';

const TENSOR_KEYS = ['dtype', 'shape', 'data'];
const NUMPY_KEYS = ['nd', 'type', 'kind', 'shape', 'data'];

export function isTensorMap(map: WireMap): boolean {
  return TENSOR_KEYS.some((key) => map.entries.has(key));
}

/** msgpack-numpy marks its maps with `nd`, and Python complex numbers with the bytes key `complex`. */
export function isNumpyMap(map: WireMap): boolean {
  return map.entries.has('nd') || (map.bytesKey !== null && map.entries.has('complex'));
}

/** Throws WireError (invalid-tensor) when anything about the map does not fit. */
export function readTensorMap(map: WireMap, pointer: string): EncodedTensor {
  checkKeys(map, TENSOR_KEYS, TENSOR_KEYS, pointer);
  return assemble(map.entries.get('dtype'), map, pointer, 'dtype');
}

/** An array as an encoded tensor, a numpy scalar as a plain number or boolean. */
export function readNumpyMap(map: WireMap, pointer: string): EncodedTensor | number | boolean {
  const { entries } = map;
  if (entries.has('complex')) {
    throw refuse(
      pointer,
      `The value at ${placeName(pointer)} is complex; only real numbers are read.`,
    );
  }
  if (entries.get('nd') === false) return readScalar(map, pointer);
  if (entries.get('nd') !== true) {
    throw refuse(
      appendPointer(pointer, 'nd'),
      `"nd" of the numpy map at ${placeName(pointer)} is neither true nor false.`,
    );
  }
  // Versions of msgpack-numpy before 0.4.4 write no kind.
  checkKeys(map, NUMPY_KEYS, ['type', 'shape', 'data'], pointer);
  const kind = readText(entries.get('kind') ?? '');
  if (kind !== '') {
    throw refuse(
      pointer,
      `The numpy array at ${placeName(pointer)} is a structured or object array (kind ${quote(kind)}); the element types are ${ACCEPTED_DTYPES}. A bfloat16 array goes as a map {dtype: 'bfloat16', shape, data}.`,
    );
  }
  return assemble(readText(entries.get('type')), map, pointer, 'type');
}

function readScalar(map: WireMap, pointer: string): number | boolean {
  checkKeys(map, ['nd', 'type', 'data'], ['type', 'data'], pointer);
  const type = readText(map.entries.get('type'));
  const scalar = typeof type === 'string' ? NUMPY_SCALARS.get(type) : undefined;
  if (!scalar) {
    throw refuse(
      pointer,
      `The numpy scalar at ${placeName(pointer)} is of type ${quote(type)}; booleans and little-endian integers and floats are read.`,
    );
  }
  const bytes = readBytes(map.entries.get('data'), pointer);
  checkLength(bytes.length, scalar.size, `the numpy type ${type}`, pointer);
  return scalar.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0);
}

/** @param key under which the name of the element type stands. */
function assemble(name: unknown, map: WireMap, pointer: string, key: string): EncodedTensor {
  const shape = readShape(map.entries.get('shape'), pointer);
  const integer = isFewIntegers(shape, pointer) ? integerType(name) : null;
  if (integer) return readIntegers(integer, shape, read(integer.size, String(name)));
  const dtype = readDtype(name, pointer, key);
  return encodedTensor(dtype, shape, read(ITEM_SIZE[dtype], dtype));

  function read(itemSize: number, type: string): Uint8Array {
    const expected = byteLength(shape, itemSize, pointer);
    const data = map.entries.get('data');
    const bytes = map.format === 'json' ? readBase64(data, pointer) : readBytes(data, pointer);
    checkLength(bytes.length, expected, `shape [${shape.join(', ')}] in ${type}`, pointer);
    return bytes;
  }
}

function readDtype(name: unknown, pointer: string, key: string): Dtype {
  const dtype = typeof name === 'string' ? parseDtype(name) : null;
  if (dtype !== null) return dtype;
  const place = appendPointer(pointer, key);
  if (typeof name === 'string' && isBigEndian(name)) {
    throw refuse(
      place,
      `The tensor at ${placeName(pointer)} is big endian (${quote(name)}); send it in little-endian byte order.`,
    );
  }
  throw refuse(
    place,
    `The tensor at ${placeName(pointer)} has the element type ${quote(name)}; accepted are ${ACCEPTED_DTYPES}.`,
  );
}

function readShape(shape: unknown, pointer: string): number[] {
  const place = appendPointer(pointer, 'shape');
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw refuse(
      place,
      `The shape of the tensor at ${placeName(pointer)} must be a list of non-negative integers; it is ${Array.isArray(shape) ? `[${shape.slice(0, MAX_DIMENSIONS).map(quote).join(', ')}]` : quote(shape)}.`,
    );
  }
  if (shape.length > MAX_DIMENSIONS) {
    throw refuse(
      place,
      `The tensor at ${placeName(pointer)} has ${shape.length} dimensions; at most ${MAX_DIMENSIONS} are allowed.`,
      { limit: MAX_DIMENSIONS, actual: shape.length },
    );
  }
  const empty = shape.indexOf(0);
  if (empty >= 0) {
    throw refuse(
      place,
      `The tensor at ${placeName(pointer)} is empty: dimension ${empty} of its shape [${shape.join(', ')}] is 0.`,
    );
  }
  return shape;
}

function byteLength(shape: readonly number[], itemSize: number, pointer: string): number {
  const length = shape.reduce((product, size) => product * size, itemSize);
  if (Number.isSafeInteger(length)) return length;
  throw refuse(
    appendPointer(pointer, 'shape'),
    `The shape [${shape.join(', ')}] of the tensor at ${placeName(pointer)} is larger than any memory.`,
  );
}

/** Longer than any name of a type: what stands behind it makes no difference. */
const LONGEST_NAME = 64;

function readText(value: unknown): unknown {
  if (!(value instanceof Uint8Array)) return value;
  return Buffer.from(value.subarray(0, LONGEST_NAME)).toString('latin1');
}

function checkKeys(
  map: WireMap,
  allowed: readonly string[],
  required: readonly string[],
  pointer: string,
): void {
  for (const key of required) {
    if (map.entries.has(key)) continue;
    throw refuse(
      pointer,
      `The tensor at ${placeName(pointer)} has no ${JSON.stringify(key)}; it needs ${required.join(', ')}.`,
    );
  }
  for (const key of map.entries.keys()) {
    if (allowed.includes(key)) continue;
    throw refuse(
      appendPointer(pointer, key),
      `The tensor at ${placeName(pointer)} has the unknown key ${quote(key)}; it holds ${allowed.join(', ')}.`,
    );
  }
}
