/** Jobs of all API nodes of a queue, in its store: any of them tells their progress and gives their answers. */
import type { Redis } from 'ioredis';
import { connect } from '../cluster/connection.js';
import { isAway, isFull, storeAway } from '../cluster/faults.js';
import { FORGET_JOB_CHANNEL, jobKey } from '../cluster/names.js';
import { readChunks, writeChunks, writeField } from './chunks.js';

/** What a job has come to, as JSON has it. */
export interface JobState {
  /** Until it is done. */
  readonly progress?: object;
  /** The head of an answer, whose bytes follow. */
  readonly answer?: { readonly length: number; readonly type: string; readonly timings: object };
  readonly problem?: { readonly kind: string; readonly message: string; readonly options: object };
}

const STATE = 'state';

export class SharedJobs {
  readonly #store: Redis;
  readonly #listener: Redis;

  /** @param onForget told of what any node was asked to forget. */
  constructor(url: string, onForget: (id: string, owner: string) => void) {
    this.#store = connect(url);
    this.#listener = connect(url);
    this.#listener.subscribe(FORGET_JOB_CHANNEL).catch(() => {});
    this.#listener.on('message', (_channel, message: string) => {
      const [id, owner] = JSON.parse(message) as [string, string];
      onForget(id, owner);
    });
  }

  /**
   * Tells the other nodes, for a time.
   *
   * @returns whether they know it now: not when the store is full or away. What they knew before lives on.
   */
  async tell(
    id: string,
    owner: string,
    state: JobState,
    bytes: Uint8Array | null,
    ttlMs: number,
  ): Promise<boolean> {
    const key = jobKey(owner, id);
    try {
      await this.#store.pexpire(key, ttlMs);
      if (bytes) await writeChunks(this.#store, key, bytes, ttlMs);
      await writeField(this.#store, key, STATE, JSON.stringify(state), ttlMs);
      return true;
    } catch (error) {
      if (isFull(error as Error) || isAway(error as Error)) return false;
      throw error;
    }
  }

  /** undefined: there is none of this owner. @throws {Problem} store-away: it may be there. */
  async find(id: string, owner: string): Promise<JobState | undefined> {
    try {
      const text = await this.#store.hget(jobKey(owner, id), STATE);
      return text ? (JSON.parse(text) as JobState) : undefined;
    } catch (error) {
      throw isAway(error as Error) ? storeAway() : error;
    }
  }

  /** @throws {Error} when the store does not have all of it any more. */
  read(id: string, owner: string, length: number): AsyncIterable<Uint8Array> {
    return readChunks(this.#store, jobKey(owner, id), length);
  }

  async forget(id: string, owner: string): Promise<void> {
    // Both at once: the node may be about to end.
    const commands = [
      this.#store.del(jobKey(owner, id)),
      this.#store.publish(FORGET_JOB_CHANNEL, JSON.stringify([id, owner])),
    ];
    await Promise.all(commands);
  }

  close(): void {
    this.#store.disconnect();
    this.#listener.disconnect();
  }
}
