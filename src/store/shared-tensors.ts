/**
 * Tensors of all API nodes of a queue, in its store: what one node keeps, the others find. A tensor is one key, a hash of
 * its form and its chunks, which comes and goes as a whole.
 */
import type { Redis } from 'ioredis';
import { copyBytes } from '../../workers/tensor/shared-memory.js';
import { elementCount, type Tensor } from '../../workers/tensor/tensor.js';
import { connect } from '../cluster/connection.js';
import { isAway, isFull, storeFull } from '../cluster/faults.js';
import {
  FORGET_CHANNEL,
  MISSING,
  tensorBytesKey,
  tensorKey,
  tensorsKey,
} from '../cluster/names.js';
import { readChunks, writeChunks, writeField } from './chunks.js';
import { storedBytes } from './tensor-store.js';

export type TensorForm = Pick<Tensor, 'dtype' | 'shape'>;

/** Field of the hash that is written last. */
const FORM = 'form';

/**
 * Tensors of an owner by their last use, as 'name bytes', and the bytes of all: what is done with one does not take longer
 * where there are many.
 */
const LIST = `
local list, sum = KEYS[1], KEYS[2]
local function size(tensor) return tonumber(tensor:match(' (%d+)')) end
local function leave(tensor)
  if redis.call('ZREM', list, tensor) == 1 then redis.call('DECRBY', sum, size(tensor)) end
end`;

/** Tensors that leave in one go: everybody waits for the store meanwhile, ten milliseconds. */
const AT_ONCE = 1000;

/**
 * One counts as used now; beyond the quota the others make room, those first that were not used for the longest time.
 * Answers whether more of them have to.
 */
const BOOK = `${LIST}
local tensor, quota, ttl, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
if redis.call('ZADD', list, now, tensor) == 1 then redis.call('INCRBY', sum, size(tensor)) end
redis.call('PEXPIRE', list, ttl)
redis.call('PEXPIRE', sum, ttl)
local old = redis.call('ZRANGEBYSCORE', list, '-inf', now - ttl, 'LIMIT', 0, ${AT_ONCE})
for _, one in ipairs(old) do leave(one) end
for _ = 1, ${AT_ONCE} do
  if tonumber(redis.call('GET', sum) or 0) <= quota then return 0 end
  local oldest = redis.call('ZRANGE', list, 0, 0)[1]
  -- The store has lost the list alone.
  if not oldest then redis.call('DEL', sum) return 0 end
  redis.call('DEL', prefix .. oldest:match('[^ ]+'))
  leave(oldest)
end
return 1`;

const LEAVE = `${LIST} leave(ARGV[1])`;

export class SharedTensors {
  readonly #store: Redis;
  readonly #listener: Redis;
  readonly #fetching = new Map<string, Promise<Tensor | undefined>>();

  /** @param onForget told of what any node was asked to forget. */
  constructor(
    private readonly options: { readonly url: string; readonly ttlMs: number },
    onForget: (name: string, owner: string) => void,
  ) {
    this.#store = connect(options.url);
    this.#listener = connect(options.url);
    this.#listener.subscribe(FORGET_CHANNEL).catch(() => {});
    this.#listener.on('message', (_channel, message: string) => {
      const [name, owner] = JSON.parse(message) as [string, string];
      onForget(name, owner);
    });
  }

  /**
   * The tensor counts as used. Where the store does not answer, it is not kept.
   *
   * @param quota bytes of the owner, as `storedBytes` counts them: beyond it others of its tensors make room.
   * @returns whether it was not there before.
   * @throws {Problem} store-full
   */
  async add(name: string, tensor: Tensor, owner: string, quota: number): Promise<boolean> {
    if (await this.formOf(name, owner)) return false;
    const key = tensorKey(owner, name);
    const { ttlMs } = this.options;
    try {
      await writeChunks(this.#store, key, tensor.data, ttlMs);
      const form: TensorForm = { dtype: tensor.dtype, shape: tensor.shape };
      await writeField(this.#store, key, FORM, JSON.stringify(form), ttlMs);
      await this.#book(name, owner, form, quota);
    } catch (error) {
      if (!isFull(error as Error)) return whenAway(error as Error, true);
      await this.#store.del(key).catch(() => {});
      throw storeFull();
    }
    return true;
  }

  /** What a tensor would take; it counts as used. */
  async formOf(name: string, owner: string): Promise<TensorForm | undefined> {
    const key = tensorKey(owner, name);
    try {
      const text = await this.#store.hget(key, FORM);
      if (!text) return undefined;
      const form = JSON.parse(text) as TensorForm;
      await this.#store.pexpire(key, this.options.ttlMs);
      await this.#book(name, owner, form).catch(whenFull);
      return form;
    } catch (error) {
      return whenAway(error as Error, undefined);
    }
  }

  /** The tensor, in shared memory. Concurrent calls for the same tensor share it. */
  get(name: string, owner: string, form: TensorForm): Promise<Tensor | undefined> {
    const key = tensorKey(owner, name);
    let fetching = this.#fetching.get(key);
    if (!fetching) {
      fetching = this.#fetch(key, form).finally(() => this.#fetching.delete(key));
      this.#fetching.set(key, fetching);
    }
    return fetching;
  }

  /** @returns whether it was there. */
  async delete(name: string, owner: string): Promise<boolean> {
    try {
      const form = await this.formOf(name, owner);
      if (!form) return false;
      await this.#store.del(tensorKey(owner, name));
      await this.#onList(LEAVE, owner, listed(name, form));
      await this.#store.publish(FORGET_CHANNEL, JSON.stringify([name, owner]));
      return true;
    } catch (error) {
      return whenAway(error as Error, false);
    }
  }

  close(): void {
    this.#store.disconnect();
    this.#listener.disconnect();
  }

  async #fetch(key: string, { dtype, shape }: TensorForm): Promise<Tensor | undefined> {
    const wide = dtype === 'float64';
    const memory = new SharedArrayBuffer(elementCount(shape) * (wide ? 8 : 4));
    const bytes = new Uint8Array(memory);
    let at = 0;
    try {
      for await (const chunk of readChunks(this.#store, key, bytes.length)) {
        copyBytes(bytes, chunk, at);
        at += chunk.length;
      }
    } catch (error) {
      if ((error as Error).message !== MISSING) return whenAway(error as Error, undefined);
      // What is left of it would keep others from sending it again.
      await this.#store.del(key).catch(() => {});
      return undefined;
    }
    return { dtype, shape, data: wide ? new Float64Array(memory) : new Float32Array(memory) };
  }

  async #book(
    name: string,
    owner: string,
    form: TensorForm,
    quota = Number.MAX_SAFE_INTEGER,
  ): Promise<void> {
    const { ttlMs } = this.options;
    const values = [listed(name, form), quota, ttlMs, tensorKey(owner, '')];
    while ((await this.#onList(BOOK, owner, ...values)) === 1);
  }

  #onList(script: string, owner: string, ...values: (string | number)[]): Promise<unknown> {
    return this.#store.eval(script, 2, tensorsKey(owner), tensorBytesKey(owner), ...values);
  }
}

const listed = (name: string, { dtype, shape }: TensorForm) =>
  `${name} ${storedBytes(dtype, shape)}`;

/** What is answered in place of a store that does not answer. */
function whenAway<Answer>(error: Error, answer: Answer): Answer {
  if (isAway(error)) return answer;
  throw error;
}

/** A full store books nothing, but lets live on what it has. */
function whenFull(error: Error): void {
  if (!isFull(error)) throw error;
}
