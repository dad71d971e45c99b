/**
 * Tensors that do not change between requests, by their digest, in bounded memory: when room is needed,
 * the one that was not used for the longest time goes. A request that uses it keeps its memory alive.
 */
import { LRUCache } from 'lru-cache';
import type { Dtype } from '../../workers/tensor/dtype.js';
import { elementCount, type Tensor } from '../../workers/tensor/tensor.js';

/** What a tensor costs beside its data: else a flood of tiny ones would not be bounded. Bytes. */
const OVERHEAD_BYTES = 1024;

/** Bytes of memory for a tensor in the store. Data of 16 bits is kept in float32, twice its size. */
export function storedBytes(dtype: Dtype, shape: readonly number[]): number {
  return elementCount(shape) * (dtype === 'float64' ? 8 : 4) + OVERHEAD_BYTES;
}

export class TensorStore {
  readonly #tensors: LRUCache<string, Tensor>;
  #evicted = 0;

  /** @param limit bytes, as `storedBytes` counts them. */
  constructor(readonly limit: number) {
    this.#tensors = new LRUCache({
      maxSize: limit,
      sizeCalculation: ({ dtype, shape }) => storedBytes(dtype, shape),
      dispose: (_tensor, _name, reason) => {
        if (reason === 'evict') this.#evicted++;
      },
    });
  }

  /** Bytes, as `storedBytes` counts them. */
  get bytes(): number {
    return this.#tensors.calculatedSize;
  }

  get count(): number {
    return this.#tensors.size;
  }

  /** Tensors that had to make room, since the start. */
  get evicted(): number {
    return this.#evicted;
  }

  /** Whether it could be kept if nothing else were. */
  hasRoomFor(dtype: Dtype, shape: readonly number[]): boolean {
    return storedBytes(dtype, shape) <= this.limit;
  }

  /** @param name 'sha256:<hex>'. The tensor counts as used, and must not be written to. */
  get(name: string): Tensor | undefined {
    return this.#tensors.get(name);
  }

  /** The tensor counts as used. @returns whether it was not there before. */
  add(name: string, tensor: Tensor): boolean {
    // The data that is there already is equal, and may be in use: one copy is enough.
    if (this.#tensors.get(name)) return false;
    this.#tensors.set(name, tensor);
    return true;
  }

  /** @returns whether it was there. */
  delete(name: string): boolean {
    return this.#tensors.delete(name);
  }
}
