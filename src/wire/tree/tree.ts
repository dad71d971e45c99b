/**
 * The strict walker: what a decoder made of a body becomes a tree of null-prototype objects, arrays,
 * strings, numbers, booleans, null, encoded tensors and references to tensors, and nothing else. Every
 * refusal names its place.
 */
import type { EncodedTensor } from '../../../workers/tensor/encoded.js';
import { RAGGED } from './integer-array.js';
import { isNumberList, readNumberList } from './number-list.js';
import { quote } from './quote.js';
import { isReferenceMap, readReference, type TensorReference } from './reference.js';
import { isNumpyMap, isTensorMap, readNumpyMap, readTensorMap } from './tensor-map.js';
import { appendPointer, placeName, WireError } from './wire-error.js';
import type { WireLimits } from './wire-limits.js';
import { readWireMap, type WireMap } from './wire-map.js';

export type WireValue =
  | null
  | boolean
  | number
  | string
  | EncodedTensor
  | TensorReference
  | WireValue[]
  | { [key: string]: WireValue };

/**
 * How a client writes tensors, and so how it is answered: as {dtype, shape, data}, as msgpack-numpy
 * maps, or as nested lists of numbers.
 */
export type Dialect = 'tensor' | 'numpy' | 'list';

export interface Decoded {
  readonly value: WireValue;
  /**
   * That of the first tensor in the body, flat lists apart (key_lengths is one whatever the dialect); of
   * a body without others, the plainest of its format.
   */
  readonly dialect: Dialect;
  /** Every tensor with its JSON pointer, in document order. */
  readonly tensors: readonly { readonly pointer: string; readonly tensor: EncodedTensor }[];
}

class Walker {
  readonly limits: WireLimits;
  readonly tensors: { pointer: string; tensor: EncodedTensor }[] = [];
  dialect: Dialect | null = null;
  /** Entries of the lists that are no tensors. */
  private entries = 0;

  constructor(limits: WireLimits) {
    this.limits = limits;
  }

  walk(value: unknown, pointer: string, depth: number): WireValue {
    if (value === null || typeof value === 'boolean') return value;
    if (typeof value === 'number') return checkNumber(value, pointer);
    if (typeof value === 'string') return this.checkString(value, pointer);
    if (Array.isArray(value)) return this.array(value, pointer, depth);
    if (value instanceof Uint8Array) {
      throw new WireError(
        'invalid-value',
        pointer,
        `The value at ${placeName(pointer)} is raw bytes; bytes belong into the data of a tensor map {dtype, shape, data}.`,
      );
    }
    const map = readWireMap(value);
    if (map === null) {
      throw new WireError(
        'invalid-value',
        pointer,
        `The value at ${placeName(pointer)} is of a type that no request can hold.`,
      );
    }
    return this.map(map, pointer, depth);
  }

  private array(list: unknown[], pointer: string, depth: number): WireValue {
    // The members of ragged lists are tensors by themselves.
    if (isNumberList(list) && !(RAGGED.has(pointer) && Array.isArray(list[0]))) {
      return this.found('list', readNumberList(list, this.limits.maxElements, pointer), pointer);
    }
    this.checkDepth(depth, pointer);
    this.countEntries(list.length, pointer);
    return list.map((item, index) => this.walk(item, appendPointer(pointer, index), depth + 1));
  }

  private map(map: WireMap, pointer: string, depth: number): WireValue {
    if (isNumpyMap(map)) {
      const read = readNumpyMap(map, pointer);
      return typeof read === 'object'
        ? this.found('numpy', read, pointer)
        : checkScalar(read, pointer);
    }
    if (map.bytesKey !== null) {
      throw new WireError(
        'invalid-value',
        pointer,
        `The key ${quote(map.bytesKey)} at ${placeName(pointer)} is bytes; keys must be strings.`,
      );
    }
    if (isReferenceMap(map)) return readReference(map, pointer);
    if (isTensorMap(map)) return this.found('tensor', readTensorMap(map, pointer), pointer);
    this.checkDepth(depth, pointer);
    const object: { [key: string]: WireValue } = Object.create(null);
    for (const [key, value] of map.entries) {
      object[key] = this.walk(value, appendPointer(pointer, key), depth + 1);
    }
    return object;
  }

  private found(dialect: Dialect, tensor: EncodedTensor, pointer: string): EncodedTensor {
    if (dialect !== 'list' || tensor.shape.length > 1) this.dialect ??= dialect;
    this.tensors.push({ pointer, tensor });
    const { maxTensors } = this.limits;
    if (this.tensors.length > maxTensors) {
      throw new WireError(
        'limit-exceeded',
        pointer,
        `There are more tensors in the body than the ${maxTensors} that are allowed.`,
        { limit: maxTensors, actual: this.tensors.length },
      );
    }
    return tensor;
  }

  private checkString(text: string, pointer: string): string {
    const { maxStringBytes } = this.limits;
    const actual = Buffer.byteLength(text);
    if (actual <= maxStringBytes) return text;
    throw new WireError(
      'limit-exceeded',
      pointer,
      `The string at ${placeName(pointer)} has ${actual} bytes; at most ${maxStringBytes} are allowed.`,
      { limit: maxStringBytes, actual },
    );
  }

  /** Numbers come in bulk, as tensors; a list of anything else is an option of the request, and short. */
  private countEntries(count: number, pointer: string): void {
    this.entries += count;
    const { maxKeys } = this.limits;
    if (this.entries <= maxKeys) return;
    throw new WireError(
      'limit-exceeded',
      pointer,
      `The lists up to ${placeName(pointer)} have ${this.entries} entries that are no numbers; at most ${maxKeys} are allowed.`,
      { limit: maxKeys, actual: this.entries },
    );
  }

  private checkDepth(depth: number, pointer: string): void {
    const { maxDepth } = this.limits;
    if (depth < maxDepth) return;
    throw new WireError(
      'limit-exceeded',
      pointer,
      `There are more than ${maxDepth} levels of nesting at ${placeName(pointer)}.`,
      { limit: maxDepth, actual: depth + 1 },
    );
  }
}

function checkNumber(value: number, pointer: string): number {
  if (!Number.isFinite(value)) {
    throw new WireError(
      'invalid-value',
      pointer,
      `The number at ${placeName(pointer)} is ${value}; numbers must be finite.`,
    );
  }
  return value;
}

function checkScalar(value: number | boolean, pointer: string): number | boolean {
  return typeof value === 'number' ? checkNumber(value, pointer) : value;
}

/**
 * Checks and converts a decoded body. `plainest` is the dialect to report when there is no tensor.
 * Throws WireError: invalid-value, invalid-tensor or limit-exceeded.
 */
export function walkTree(root: unknown, plainest: Dialect, limits: WireLimits): Decoded {
  const walker = new Walker(limits);
  const value = walker.walk(root, '', 0);
  return { value, dialect: walker.dialect ?? plainest, tensors: walker.tensors };
}
