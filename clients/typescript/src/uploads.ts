/** Kept tensors on their way into the store of one service. */
import { encodeTensorBody } from './codec.js';
import { ProblemError } from './errors.js';
import type { KeptTensor } from './kept-tensor.js';

/** Sends one request with retries. @throws {ProblemError} unless it succeeds. */
export type Send = (method: string, path: string, body?: Uint8Array) => Promise<unknown>;

export class Uploads {
  readonly #send: Send;
  /** By name: whether the service has the tensor, false when it does not take it. */
  readonly #known = new Map<string, Promise<boolean>>();

  constructor(send: Send) {
    this.#send = send;
  }

  /** Sends those that the service does not have. @returns the names of those that it has then. */
  async ensure(tensors: readonly KeptTensor[]): Promise<Map<KeptTensor, string>> {
    const names = await Promise.all(tensors.map((tensor) => this.#ensure(tensor)));
    return new Map(tensors.flatMap((tensor, k) => (names[k] ? [[tensor, names[k]]] : [])));
  }

  /** The service says that it does not have this tensor any more. */
  forget(name: string): void {
    this.#known.delete(name);
  }

  async #ensure(tensor: KeptTensor): Promise<string | null> {
    const name = await tensor.name();
    if (name === null) return null;
    return (await this.#has(name, tensor)) ? name : null;
  }

  /** Calls that need the same tensor at the same time share one upload. */
  #has(name: string, tensor: KeptTensor): Promise<boolean> {
    const known = this.#known.get(name);
    if (known) return known;
    const upload = this.#upload(name, tensor);
    this.#known.set(name, upload);
    upload.catch(() => this.forget(name));
    return upload;
  }

  async #upload(name: string, { wire }: KeptTensor): Promise<boolean> {
    const path = `tensors/${name.slice('sha256:'.length)}`;
    try {
      // Perhaps another process has sent it already, or this one in an earlier life.
      await this.#send('HEAD', path);
      return true;
    } catch (error) {
      if (!(error instanceof ProblemError && error.status === 404)) throw error;
    }
    try {
      await this.#send('PUT', path, encodeTensorBody(wire));
      return true;
    } catch (error) {
      if (error instanceof ProblemError && error.status === 413) return false;
      throw error;
    }
  }
}
