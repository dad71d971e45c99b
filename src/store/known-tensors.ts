/** The tensors of this node and, where there is a queue, those of its other API nodes. */
import { LRUCache } from 'lru-cache';
import type { Tensor } from '../../workers/tensor/tensor.js';
import type { SharedTensors, TensorForm } from './shared-tensors.js';
import { storedBytes, TensorStore } from './tensor-store.js';

/** How often a tensor in use is marked as used within its time to live, so that the store keeps it. */
const SIGNS = 4;
/** Tensors whose last sign is remembered. */
const MOST_SIGNS = 10_000;

/** Whose tensors, and how many bytes of them are kept at most. */
export interface Keeper {
  readonly owner: string;
  readonly quota: number;
}

interface Queue {
  readonly url: string;
  readonly ttlMs: number;
}

export class KnownTensors {
  readonly own: TensorStore;
  #shared: SharedTensors | null = null;
  readonly #signs: LRUCache<string, true>;

  private constructor(limit: number, queue: Queue | null) {
    this.own = new TensorStore(limit);
    this.#signs = new LRUCache({ max: MOST_SIGNS, ttl: queue ? queue.ttlMs / SIGNS : 1 });
  }

  /** @param limit bytes of this node, as `storedBytes` counts them. */
  static async open(limit: number, queue: Queue | null): Promise<KnownTensors> {
    const known = new KnownTensors(limit, queue);
    if (queue) {
      // Nothing of it is loaded where there is no queue.
      const { SharedTensors } = await import('./shared-tensors.js');
      known.#shared = new SharedTensors(queue, (name, owner) => known.own.delete(name, owner));
    }
    return known;
  }

  /**
   * @returns whether no node had it.
   * @throws {Problem} store-full when the other nodes cannot be given it; this one does not keep it either.
   */
  async add(name: string, tensor: Tensor, { owner, quota }: Keeper): Promise<boolean> {
    const isNew = (await this.#shared?.add(name, tensor, owner, quota)) ?? true;
    return this.own.add(name, tensor, owner, quota) && isNew;
  }

  /** The tensor counts as used. */
  async has(name: string, { owner, quota }: Keeper): Promise<boolean> {
    const tensor = this.own.get(name, owner);
    if (tensor) this.#sign(name, tensor, { owner, quota });
    return tensor !== undefined || (await this.#shared?.formOf(name, owner)) !== undefined;
  }

  /**
   * Those of the names that are known. They count as used.
   *
   * @param reserve told of those that come from other nodes before they do.
   */
  async find(
    names: Iterable<string>,
    { owner, quota }: Keeper,
    reserve: (forms: readonly TensorForm[]) => void,
  ): Promise<ReadonlyMap<string, Tensor>> {
    const found = new Map<string, Tensor>();
    const elsewhere: { readonly name: string; readonly form: TensorForm }[] = [];
    // Asked for all at once: a store that does not answer is waited for once.
    const asked = [...names].map(async (name) => {
      const tensor = this.own.get(name, owner);
      if (tensor) {
        this.#sign(name, tensor, { owner, quota });
        found.set(name, tensor);
        return;
      }
      const form = await this.#shared?.formOf(name, owner);
      if (form) elsewhere.push({ name, form });
    });
    await Promise.all(asked);
    reserve(elsewhere.map(({ form }) => form));
    for (const { name, form } of elsewhere) {
      const tensor = await this.#shared!.get(name, owner, form);
      if (!tensor) continue;
      found.set(name, tensor);
      if (storedBytes(form.dtype, form.shape) <= quota) this.own.add(name, tensor, owner, quota);
    }
    return found;
  }

  /** @returns whether any node had it. */
  async delete(name: string, owner: string): Promise<boolean> {
    const elsewhere = await this.#shared?.delete(name, owner);
    return this.own.delete(name, owner) || elsewhere === true;
  }

  close(): void {
    this.#shared?.close();
  }

  /** What this node uses the others are not to forget, though none asks them for it. */
  #sign(name: string, tensor: Tensor, { owner, quota }: Keeper): void {
    const key = `${owner} ${name}`;
    if (!this.#shared || this.#signs.has(key)) return;
    this.#signs.set(key, true);
    // Where it does not work out this node has the tensor all the same.
    this.#shared.add(name, tensor, owner, quota).catch(() => {});
  }
}
