/** The client of the service, for Node. */
import { problemType } from '../errors.js';
import { decodeAnswer, encodeRequest, keptTensors } from './codec.js';
import { KeptTensor } from './kept-tensor.js';
import { ProblemError, problemOf } from './problem-error.js';
import { type Answer, withRetries } from './retries.js';
import type { GradientAnswer, GradientRequest, Limits, PlanAnswer, TensorInput } from './types.js';
import { Uploads } from './uploads.js';

export interface ClientOptions {
  /** Default: that of Node, which gives up when the head of an answer takes longer than 300 s. */
  readonly fetch?: typeof globalThis.fetch;
  /** Attempts after the first, when the service is busy (429, 503) or the connection is lost. Default: 10. */
  readonly retries?: number;
}

export interface CallOptions {
  /** When it aborts, the call rejects with its reason and the service stops computing. */
  readonly signal?: AbortSignal | undefined;
}

const MSGPACK = 'application/vnd.msgpack';
const MISSING = problemType('missing-tensors');

export class Client {
  readonly #base: URL;
  readonly #fetch: typeof globalThis.fetch;
  readonly #retries: number;
  readonly #uploads: Uploads;

  /** @param url where the service is: 'http://127.0.0.1:3000', or below a path of a proxy. */
  constructor(url: string | URL, options: ClientOptions = {}) {
    this.#base = new URL(url);
    if (!this.#base.pathname.endsWith('/')) this.#base.pathname += '/';
    this.#fetch = options.fetch ?? globalThis.fetch;
    this.#retries = options.retries ?? 10;
    // Other calls may wait for the same upload, so it does not end with the call that began it.
    this.#uploads = new Uploads((method, path, body) => this.#send(method, path, body, {}));
  }

  /**
   * Announce a tensor that stays as it is, such as a frozen weight: it is sent once, and again only if
   * the service had to forget it. Its data must not be written to any more.
   */
  keep(tensor: TensorInput): KeptTensor {
    return new KeptTensor(tensor);
  }

  /** @throws {ProblemError} when the service refuses. */
  async gradient(request: GradientRequest, options: CallOptions = {}): Promise<GradientAnswer> {
    return (await this.#ask('gradient', request, options)) as GradientAnswer;
  }

  /** The verdict without the gradient: target and grad_output may be left out. */
  async plan(request: GradientRequest, options: CallOptions = {}): Promise<PlanAnswer> {
    return (await this.#ask('plan', request, options)) as PlanAnswer;
  }

  async limits(options: CallOptions = {}): Promise<Limits> {
    const { body } = await this.#send('GET', 'limits', undefined, options);
    return JSON.parse(new TextDecoder().decode(body)) as Limits;
  }

  /** Kept tensors go by reference; those that the store cannot hold travel with the request. */
  async #ask(path: string, request: GradientRequest, options: CallOptions): Promise<unknown> {
    const kept = keptTensors(request);
    const inline = new Set<string>();
    for (let refusals = 0; ; refusals++) {
      options.signal?.throwIfAborted();
      const wanted = kept.filter(({ name }) => !inline.has(name));
      const stored = await abortable(this.#uploads.ensure(wanted), options.signal);
      try {
        const body = encodeRequest(request, stored);
        return decodeAnswer((await this.#send('POST', path, body, options)).body);
      } catch (error) {
        if (!(error instanceof ProblemError) || error.type !== MISSING) throw error;
        const missing = error.missing?.filter((name) => stored.has(name)) ?? [];
        if (missing.length === 0) throw error;
        for (const name of missing) {
          this.#uploads.forget(name);
          // Forgotten a second time: the store is too small for all that is kept.
          if (refusals > 0) inline.add(name);
        }
      }
    }
  }

  /** @throws {ProblemError} unless the answer is a success. */
  async #send(
    method: string,
    path: string,
    body: Uint8Array | undefined,
    { signal }: CallOptions,
  ): Promise<Answer> {
    const attempt = async (): Promise<Answer> => {
      const fetch = this.#fetch;
      const response = await fetch(new URL(path, this.#base), {
        method,
        headers: body ? { accept: MSGPACK, 'content-type': MSGPACK } : {},
        ...(body && { body }),
        ...(signal && { signal }),
      });
      const { status, headers } = response;
      return { status, headers, body: new Uint8Array(await response.arrayBuffer()) };
    };
    const answer = await withRetries(attempt, this.#retries, signal);
    if (answer.status >= 200 && answer.status < 300) return answer;
    throw problemOf(answer);
  }
}

/** The promise, or the reason of the signal if that comes first. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
