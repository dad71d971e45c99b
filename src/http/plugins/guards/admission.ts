/**
 * Admission control. At the head of a request: is there a place, perhaps after a moment, and would its body fit? As the body arrives:
 * its bytes. When it is decoded: its price, by its shapes. A request that cannot be taken now gets 429 and may be sent again
 * after Retry-After. A request that could never be computed here gets 422 and the reason.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Price } from '../../../engine/price/price.js';
import { Problem } from '../../../errors.js';
import { type Entry, Ledger, type LedgerLimits } from '../../admission/ledger.js';
import { MemoryQueue } from '../../admission/memory-queue.js';
import { WaitingRoom } from '../../admission/waiting-room.js';

interface AdmissionLimits extends LedgerLimits {
  /** Memory that computations may take, bytes. */
  readonly maxComputeBytes: number;
  /** Seconds of one worker that a request may take. */
  readonly maxComputeSeconds: number;
  /** Longest answer in JSON, bytes. */
  readonly maxJsonBytes: number;
}

interface Admitted {
  /** Requests that compute or wait to. */
  readonly requests: number;
  /** Bytes of bodies that have arrived and of answers that wait to be read. */
  readonly bytes: number;
  /** Bytes that running computations may take. */
  readonly computeBytes: number;
  /** Requests that wait for such memory, or for a place. */
  readonly waiting: number;
  /** Seconds until what is accepted is done, as expected. */
  readonly backlog: number;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route computes: it is admitted, negotiated and given a deadline. */
    compute?: boolean;
  }
  interface FastifyInstance {
    /** What is accepted now. */
    admitted(): Admitted;
    /** Why no request of this client can even wait for a place; null: one can. @param crowded too many come before it. */
    turnedAway(client: string, crowded: boolean): Problem | null;
  }
  interface FastifyRequest {
    /** What this request holds: a place, bytes, seconds of work. */
    entry: Entry;
    /**
     * Its body is here and is to be decoded.
     * @throws {Problem} queue-full when there is no place, nor becomes free within a moment.
     */
    takePlace(): Promise<void>;
    /**
     * It works on this many bytes beside its body.
     * @throws {Problem} queue-full when that is too much beside the other requests; body-too-large when
     * it is too much for one request.
     */
    reserveMoreBytes(bytes: number): void;
    /**
     * Resolves when there is memory for it; call what it resolves to when that is free again.
     * @throws {Problem} at once: limit-exceeded for what could never be done, queue-full for what cannot be now.
     */
    admit(price: Price, json: boolean): Promise<() => void>;
  }
}

/** Requests that may wait for a place, for each place. */
const WAITING_FOR_EACH = 4;
/** How long one refusal serves for all: under overload there are thousands a second. */
const SAME_REFUSAL_MS = 100;

/** @param sentence says what takes so much. @param remedy what may be sent in place of it. */
function exceeded(sentence: string, limit: number, actual: number, remedy: string): Problem {
  return new Problem('limit-exceeded', `${sentence}; the limit is ${limit}. ${remedy}`, {
    pointer: '',
    limit,
    actual,
  });
}

const SMALLER = 'Send fewer rows, heads or batch items.';

async function admission(app: FastifyInstance, limits: AdmissionLimits): Promise<void> {
  const ledger: Ledger = new Ledger(limits, () => waitingRoom.admitNext());
  const waitingRoom = new WaitingRoom(WAITING_FOR_EACH * limits.maxRequests, (client) =>
    ledger.hasPlace(client),
  );
  const memory = new MemoryQueue(limits.maxComputeBytes);

  app.decorate('admitted', () => ({
    requests: ledger.requests,
    bytes: ledger.bytes,
    computeBytes: memory.used,
    waiting: memory.waiting + waitingRoom.waiting,
    backlog: ledger.backlog,
  }));

  let refusal: Problem;
  let refusalUntil = 0;
  const tooMany = () => {
    const now = performance.now();
    if (now >= refusalUntil) {
      refusal = ledger.busy(
        'Requests that wait for a place',
        waitingRoom.waiting,
        waitingRoom.waiting + 1,
      );
      refusalUntil = now + SAME_REFUSAL_MS;
    }
    return refusal;
  };
  app.decorate('turnedAway', (client: string, crowded: boolean) =>
    crowded || waitingRoom.isFull(client) ? tooMany() : null,
  );

  app.decorateRequest('entry');
  app.decorateRequest('reserveMoreBytes', function (this: FastifyRequest, more: number) {
    const actual = this.entry.bytes + more;
    const limit = limits.maxInflightBytes;
    if (actual > limit) {
      throw new Problem(
        'body-too-large',
        `The body and the tensors that it refers to have ${actual} bytes; the limit is ${limit}.`,
        { limit, actual },
      );
    }
    this.entry.holdMore(more);
  });

  app.decorateRequest('admit', function (this: FastifyRequest, price: Price, json: boolean) {
    const seconds = Math.ceil(price.seconds);
    const bytes = Math.ceil(price.bytes);
    const { answerBytes } = price;
    if (json && answerBytes > limits.maxJsonBytes) {
      throw exceeded(
        `The answer may have ${answerBytes} bytes in JSON`,
        limits.maxJsonBytes,
        answerBytes,
        'Accept application/vnd.msgpack, which has no such limit.',
      );
    }
    if (answerBytes > limits.maxInflightBytes) {
      throw exceeded(
        `The answer would keep ${answerBytes} bytes until it is read`,
        limits.maxInflightBytes,
        answerBytes,
        'Ask for fewer outputs, or send fewer batch items.',
      );
    }
    if (bytes > limits.maxComputeBytes) {
      throw exceeded(
        `This request may take ${bytes} bytes of memory`,
        limits.maxComputeBytes,
        bytes,
        SMALLER,
      );
    }
    if (seconds > limits.maxComputeSeconds) {
      throw exceeded(
        `This request may take ${seconds} seconds of one worker`,
        limits.maxComputeSeconds,
        seconds,
        SMALLER,
      );
    }
    this.entry.begin(price.seconds, answerBytes);
    const { client } = this.entry;
    return memory.take(client, bytes, this.cancellation).then(() => () => {
      memory.give(client, bytes);
      this.entry.computed(answerBytes);
    });
  });

  async function waitForPlace(request: FastifyRequest, ahead = false): Promise<void> {
    const { client, lifetime, cancellation } = request;
    const mayEnter = await waitingRoom.wait(
      client,
      (callback) => lifetime.whenOver(callback),
      ahead,
    );
    cancellation.throwIfAborted();
    if (!mayEnter) throw tooMany();
  }

  app.decorateRequest('takePlace', async function (this: FastifyRequest) {
    if (!ledger.hasPlace(this.client)) await waitForPlace(this, true);
    this.entry.arrive();
  });

  async function enter(request: FastifyRequest): Promise<void> {
    const { client, headers } = request;
    if (waitingRoom.mustWait(client)) await waitForPlace(request);
    try {
      const entry = ledger.enter(client, Number(headers['content-length'] ?? 0));
      request.entry = entry;
      request.lifetime.whenOver(() => entry.leave());
    } catch (error) {
      // The place that it waited for may be for the next.
      waitingRoom.admitNext();
      throw error;
    }
  }

  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [enter, ...[route.onRequest ?? []].flat()];
  });
}

export default fp(admission, { name: 'admission', dependencies: ['clients', 'lifetime'] });
