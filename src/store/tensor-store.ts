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
  /** Tensors by owner; clients without an API key share one space. */
  readonly #spaces = new Map<string, LRUCache<string, Tensor>>();
  #evicted = 0;

  /** @param limit bytes, as `storedBytes` counts them, of all owners together. */
  constructor(readonly limit: number) {}

  /** Bytes, as `storedBytes` counts them. */
  get bytes(): number {
    let sum = 0;
    for (const { calculatedSize } of this.#spaces.values()) sum += calculatedSize;
    return sum;
  }

  get count(): number {
    let sum = 0;
    for (const { size } of this.#spaces.values()) sum += size;
    return sum;
  }

  /** Tensors that had to make room, since the start. */
  get evicted(): number {
    return this.#evicted;
  }

  /** @param name 'sha256:<hex>'. The tensor counts as used, and must not be written to. */
  get(name: string, owner = ''): Tensor | undefined {
    return this.#spaces.get(owner)?.get(name);
  }

  /**
   * The tensor counts as used.
   *
   * @param quota bytes of the owner: beyond it others of its tensors make room. The tensor itself must fit into it.
   * @returns whether it was not there before.
   */
  add(name: string, tensor: Tensor, owner = '', quota = this.limit): boolean {
    // The data that is there already is equal, and may be in use: one copy is enough.
    if (this.get(name, owner)) return false;
    const size = storedBytes(tensor.dtype, tensor.shape);
    let space = this.#spaces.get(owner);
    while (space && space.size > 0 && space.calculatedSize + size > quota) this.#evict(space);
    while (this.bytes + size > this.limit) this.#evict(this.#largest());
    if (!space) {
      space = new LRUCache({
        maxSize: this.limit,
        sizeCalculation: ({ dtype, shape }) => storedBytes(dtype, shape),
      });
      this.#spaces.set(owner, space);
    }
    space.set(name, tensor);
    return true;
  }

  /** @returns whether it was there. */
  delete(name: string, owner = ''): boolean {
    return this.#spaces.get(owner)?.delete(name) ?? false;
  }

  /** The owner that holds most makes room, so that one with many tensors pushes out its own and not those of others. */
  #largest(): LRUCache<string, Tensor> {
    return [...this.#spaces.values()].reduce((a, b) =>
      b.calculatedSize > a.calculatedSize ? b : a,
    );
  }

  #evict(space: LRUCache<string, Tensor>): void {
    space.pop();
    this.#evicted++;
  }
}
