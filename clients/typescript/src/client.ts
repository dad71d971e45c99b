/** The client of the service. */
import { transport } from '#transport';
import type {
  ForwardAnswer,
  ForwardRequest,
  GradientAnswer,
  GradientRequest,
  JobProgress,
  Limits,
  PlanAnswer,
} from './api.js';
import { decodeAnswer, encodeRequest, keptTensors } from './codec.js';
import { ProblemError, problemOf, ServiceUnreachableError } from './errors.js';
import { KeptTensor } from './kept-tensor.js';
import { pause, retryAfterMs, withRetries } from './retries.js';
import type { TensorInput } from './tensors.js';
import { type Answer, fetching, type Transport } from './transport.js';
import { Uploads } from './uploads.js';

export interface ClientOptions {
  /** Sent with every request, as for authorization. */
  readonly headers?: Readonly<Record<string, string>>;
  /**
   * Attempts after the first, when the service is busy (429, 503) or the connection is lost (502 from a proxy). Default: 10; at most 5
   * when nobody listens.
   */
  readonly retries?: number;
  /** Sends in place of the platform. The fetch of Node gives up when an answer takes longer than 300 s. */
  readonly fetch?: typeof globalThis.fetch;
}

export interface CallOptions {
  /** When it aborts, the call rejects with its reason and the service stops computing. */
  readonly signal?: AbortSignal | undefined;
}

export interface ComputeOptions extends CallOptions {
  /**
   * For long work: the service computes without an open connection, and is asked for the answer until it is there.
   * Its limit is then job_deadline_ms of `limits`.
   */
  readonly respondAsync?: boolean | undefined;
}

/** One of the two is null. */
export type JobStep =
  | { readonly progress: JobProgress; readonly answer: null }
  | { readonly progress: null; readonly answer: GradientAnswer };

const MSGPACK = 'application/vnd.msgpack';
const MISSING = 'urn:loragrad:problem:missing-tensors';
/** A job is lost with the service that had it. Who loses several will lose the next. */
const MOST_JOBS = 3;
/** Between two questions after a job, where no Retry-After says more: a proxy may drop it. */
const ASK_MS = 250;

export class Client {
  readonly #base: URL;
  readonly #transport: Transport;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #retries: number;
  readonly #uploads: Uploads;

  /** @param url where the service is: 'http://127.0.0.1:3000', or below a path of a proxy. */
  constructor(url: string | URL, options: ClientOptions = {}) {
    this.#base = new URL(url);
    if (!this.#base.pathname.endsWith('/')) this.#base.pathname += '/';
    this.#transport = options.fetch ? fetching(options.fetch) : transport;
    this.#headers = { ...options.headers };
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

  /**
   * @throws {ProblemError} when the service refuses.
   * @throws {ServiceUnreachableError} when there is no answer.
   */
  async gradient(request: GradientRequest, options: ComputeOptions = {}): Promise<GradientAnswer> {
    return (await this.#ask('gradient', request, options)) as GradientAnswer;
  }

  /**
   * A gradient as a job: what it has come to, as often as the service wants to be asked, and at last the answer.
   * Leaving the loop ends the job.
   *
   * @throws {ProblemError} when the service refuses.
   * @throws {ServiceUnreachableError} when there is no answer.
   */
  async *follow(request: GradientRequest, options: CallOptions = {}): AsyncGenerator<JobStep> {
    const steps = this.#steps('gradient', request, { ...options, respondAsync: true });
    try {
      for (;;) {
        const { done, value } = await steps.next();
        if (done) return yield { progress: null, answer: value as GradientAnswer };
        yield { progress: value, answer: null };
      }
    } finally {
      await steps.return(null);
    }
  }

  /** The verdict without the gradient: target and grad_output may be left out. */
  async plan(request: GradientRequest, options: CallOptions = {}): Promise<PlanAnswer> {
    return (await this.#ask('plan', request, options)) as PlanAnswer;
  }

  /** The attention output alone. */
  async forward(request: ForwardRequest, options: ComputeOptions = {}): Promise<ForwardAnswer> {
    return (await this.#ask('forward', request, options)) as ForwardAnswer;
  }

  async limits(options: CallOptions = {}): Promise<Limits> {
    return jsonOf(await this.#send('GET', 'limits', undefined, options)) as Limits;
  }

  async #ask(
    path: string,
    request: GradientRequest | ForwardRequest,
    options: ComputeOptions,
  ): Promise<unknown> {
    const steps = this.#steps(path, request, options);
    for (;;) {
      const { done, value } = await steps.next();
      if (done) return value;
    }
  }

  /** Kept tensors go by reference; those that the store cannot hold travel with the request. */
  async *#steps(
    path: string,
    request: GradientRequest | ForwardRequest,
    options: ComputeOptions,
  ): AsyncGenerator<JobProgress, unknown> {
    let kept = keptTensors(request);
    let [lost, refusals] = [0, 0];
    for (;;) {
      options.signal?.throwIfAborted();
      const stored = await abortable(this.#uploads.ensure(kept), options.signal);
      try {
        const body = encodeRequest(request, stored);
        const answer = await this.#send('POST', path, body, options);
        return decodeAnswer((yield* this.#finished(answer, options)).body);
      } catch (error) {
        if (isLostJob(error) && ++lost < MOST_JOBS) continue;
        if (!(error instanceof ProblemError) || error.type !== MISSING) throw error;
        const names = new Set(error.missing);
        const forgotten = kept.filter((tensor) => names.has(stored.get(tensor) ?? ''));
        if (forgotten.length === 0) throw error;
        for (const tensor of forgotten) this.#uploads.forget(stored.get(tensor) as string);
        // Forgotten a second time: the store is too small for all that is kept.
        if (refusals++ > 0) kept = kept.filter((tensor) => !forgotten.includes(tensor));
      }
    }
  }

  /** The answer itself or, after 202, that of the job which it names. */
  async *#finished(answer: Answer, options: CallOptions): AsyncGenerator<JobProgress, Answer> {
    const id = answer.headers.get('location')?.split('/').at(-1);
    if (answer.status !== 202 || !id) return answer;
    let isOver = false;
    try {
      for (let last = answer; ; ) {
        yield jsonOf(last) as JobProgress;
        await pause(Math.max(ASK_MS, retryAfterMs(last)), options.signal);
        last = await this.#send('GET', `jobs/${id}`, undefined, options);
        if (last.status === 202) continue;
        isOver = true;
        return last;
      }
    } catch (error) {
      isOver = !options.signal?.aborted;
      throw error;
    } finally {
      // Nobody waits any more. That it has ended by itself meanwhile does no harm.
      if (!isOver) await this.#send('DELETE', `jobs/${id}`, undefined, {}).catch(() => {});
    }
  }

  /** @throws {ProblemError} unless the answer is a success. */
  async #send(
    method: string,
    path: string,
    body: Uint8Array | undefined,
    { signal, respondAsync }: ComputeOptions,
  ): Promise<Answer> {
    const url = new URL(path, this.#base);
    const types = body ? { accept: MSGPACK, 'content-type': MSGPACK } : {};
    const prefer = respondAsync && body ? { prefer: 'respond-async' } : {};
    const headers = { ...this.#headers, ...types, ...prefer };
    const attempt = () => this.#transport({ url, method, headers, body, signal });
    const answer = await withRetries(attempt, this.#retries, signal).catch((error: unknown) => {
      throw signal?.aborted ? signal.reason : new ServiceUnreachableError(url, error);
    });
    if (answer.status >= 200 && answer.status < 300) return answer;
    throw problemOf(answer, url);
  }
}

const isLostJob = (error: unknown): boolean =>
  error instanceof ProblemError && error.status === 404 && error.url.includes('/jobs/');

const jsonOf = ({ body }: Answer): unknown => JSON.parse(new TextDecoder().decode(body));

/** The promise, or the reason of the signal if that comes first. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
