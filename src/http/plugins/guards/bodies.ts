/** Request bodies: streamed into shared memory, then decoded into a tree whose leaves are tensors. */
import type { IncomingMessage } from 'node:http';
import { setImmediate } from 'node:timers/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { collectYoung } from '../../../../workers/tasks/rest.js';
import { copyBytes, Lease } from '../../../../workers/tensor/shared-memory.js';
import { Problem } from '../../../errors.js';
import { decodeJson } from '../../../wire/json.js';
import { decodeMsgpack } from '../../../wire/msgpack.js';
import type { Decoded } from '../../../wire/tree/tree.js';
import { WireError } from '../../../wire/tree/wire-error.js';
import { DEFAULT_WIRE_LIMITS, type WireLimits } from '../../../wire/tree/wire-limits.js';
import { type PaceLimits, watchPace } from '../../admission/pace.js';
import { Pieces } from '../../admission/pieces.js';
import { Turns } from '../../admission/turns.js';
import { discardRest } from '../../admission/unread-bodies.js';
import { BODY_TYPES, JSON_TYPE, MSGPACK_TYPES } from '../../media-types.js';

interface BodyLimits {
  readonly maxBodyBytes: number;
  readonly maxJsonBytes: number;
  readonly pace: PaceLimits;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** The form in which tensors came and are sent back. */
    dialect: Decoded['dialect'];
    /** Holds the body and the tensors in it; ended by whatever needs them last. */
    memory: Lease;
  }
}

function tooLarge(limit: number, actual: number): Problem {
  return new Problem('body-too-large', `The body has ${actual} bytes; the limit is ${limit}.`, {
    limit,
    actual,
  });
}

/** What is set aside for a body on the word of its head alone, bytes. */
const ON_TRUST = 2 ** 20;
/** Size of the blocks in which a body of unknown length is collected, bytes. */
const BLOCK = 2 ** 20;
/**
 * Chunks of bodies, once they are copied, are garbage outside of the heap. The collector counts it among what is old: by itself
 * it would look through the whole heap for it, every few dozen small bodies.
 */
class Chunks {
  /** Bytes of garbage that are let stand. */
  static readonly #MOST = 2 ** 24;
  #bytes = 0;

  copied(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < Chunks.#MOST) return;
    this.#bytes = 0;
    collectYoung();
  }
}

/** Collects a body in one SharedArrayBuffer, so that workers see the tensors in it without a copy. */
class SharedBody {
  readonly #announced: number;
  /** For blocks that are joined at the end. */
  readonly #blocks = new Lease();
  readonly #full: Uint8Array[] = [];
  #memory: Uint8Array;
  /** Bytes of `#memory`, and of all. */
  #used = 0;
  #length = 0;

  constructor(
    private readonly request: FastifyRequest,
    private readonly limit: number,
    private readonly chunks: Chunks,
  ) {
    this.#announced = Number(request.headers['content-length'] ?? 0);
    if (this.#announced > limit) throw tooLarge(limit, this.#announced);
    this.#memory = request.memory.bytes(Math.min(this.#announced || 65_536, ON_TRUST));
  }

  get length(): number {
    return this.#length;
  }

  /** @throws {Problem} as soon as more bytes have arrived than are allowed, or than there is room for. */
  append(chunk: Uint8Array): void {
    const needed = this.#length + chunk.length;
    if (needed > this.limit) throw tooLarge(this.limit, needed);
    this.request.entry.holdMore(chunk.length);
    this.request.spendBytes(chunk.length);
    if (this.#announced > 0 && needed > this.#memory.length) {
      // A client that has sent this much will send the rest.
      const whole = this.request.memory.bytes(this.#announced);
      copyBytes(whole, this.#memory.subarray(0, this.#used));
      this.#memory = whole;
    }
    for (let rest = chunk; rest.length > 0; ) {
      if (this.#used === this.#memory.length) this.#beginBlock();
      const part = rest.subarray(0, this.#memory.length - this.#used);
      copyBytes(this.#memory, part, this.#used);
      this.#used += part.length;
      rest = rest.subarray(part.length);
    }
    this.#length = needed;
    this.chunks.copied(chunk.length);
  }

  /** All of it, when it has arrived: of a long one block after block, between which others have their turn. */
  async bytes(): Promise<Uint8Array> {
    const last = this.#memory.subarray(0, this.#used);
    if (this.#full.length === 0) return last;
    const whole = this.request.memory.bytes(this.#length);
    let at = 0;
    for (const block of [...this.#full, last]) {
      copyBytes(whole, block, at);
      at += block.length;
      await setImmediate();
    }
    this.forget();
    return whole;
  }

  /** Its blocks are for others. */
  forget(): void {
    this.#blocks.end();
  }

  #beginBlock(): void {
    this.#full.push(this.#memory);
    this.#memory = this.#blocks.bytes(BLOCK);
    this.#used = 0;
  }
}

function readBody(
  request: FastifyRequest,
  payload: IncomingMessage,
  limit: number,
  pace: PaceLimits,
  chunks: Chunks,
): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const body = new SharedBody(request, limit, chunks);
    const pieces = new Pieces();
    const stopWatching = watchPace(
      pace,
      () => body.length,
      () => fail(tooSlow(pace, body.length)),
    );
    const fail = (error: unknown) => {
      stopWatching();
      body.forget();
      payload.removeAllListeners('data');
      // A compressed body is expanded no further; its sender is still listened to.
      if (payload !== request.raw) payload.destroy();
      reject(error);
    };
    request.inviteBody();
    payload.on('data', (chunk: Buffer) => {
      try {
        pieces.add(chunk.length);
        body.append(chunk);
      } catch (error) {
        fail(error);
      }
    });
    payload.once('end', () => {
      stopWatching();
      body.bytes().then((bytes) => {
        request.bodyBytes = bytes;
        resolve(bytes);
      }, fail);
    });
    payload.once('error', fail);
    // A client that goes away in the middle ends neither well nor with an error.
    payload.once('close', stopWatching);
  });
}

function tooSlow({ minBytesPerSecond, patienceMs }: PaceLimits, bytes: number): Problem {
  return new Problem(
    'request-timeout',
    `After ${bytes} bytes the body came too slowly: at least ${minBytesPerSecond} bytes a second are needed, with pauses of up to ${patienceMs} ms.`,
    { limit: minBytesPerSecond },
  );
}

type Decode = (body: Uint8Array, limits: WireLimits) => Decoded;

function decodeWith(decode: Decode, request: FastifyRequest, body: Uint8Array): unknown {
  try {
    const { value, dialect } = decode(body, DEFAULT_WIRE_LIMITS);
    request.dialect = dialect;
    return value;
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const { kind, pointer, limit, actual } = error;
    throw new Problem(kind, error.message, { pointer, limit, actual, cause: error });
  }
}

/** @throws {Problem} where Fastify would go on without a body. */
async function requireType(request: FastifyRequest): Promise<void> {
  if (request.headers['content-type'] !== undefined) return;
  throw new Problem(
    'unsupported-media-type',
    `There is no Content-Type; a body of one of ${BODY_TYPES.join(', ')} is needed.`,
    { headers: { accept: BODY_TYPES.join(', ') } },
  );
}

async function bodies(app: FastifyInstance, limits: BodyLimits): Promise<void> {
  app.decorateRequest('dialect', 'tensor');
  app.decorateRequest('memory');
  app.removeAllContentTypeParsers();
  const turns = new Turns();
  const chunks = new Chunks();
  const parser =
    (decode: Decode, limit: number) =>
    async (request: FastifyRequest, payload: IncomingMessage): Promise<unknown> => {
      // What a DELETE carries has no meaning (RFC 9110, 9.3.5).
      if (!request.routeOptions.schema?.body) return discardRest(request.raw);
      try {
        const body = await readBody(request, payload, limit, limits.pace, chunks);
        await request.takePlace();
        await turns.take(request.client);
        // It may have waited for longer than anybody waits for it.
        request.cancellation.throwIfAborted();
        return decodeWith(decode, request, body);
      } catch (error) {
        // Nobody else has seen it.
        request.memory.end();
        throw error;
      }
    };
  app.addContentTypeParser([...MSGPACK_TYPES], parser(decodeMsgpack, limits.maxBodyBytes));
  app.addContentTypeParser(JSON_TYPE, parser(decodeJson, limits.maxJsonBytes));
  app.addHook('onRequest', async (request) => {
    request.memory = new Lease();
  });
  app.addHook('onRoute', (route) => {
    if (route.schema?.body) route.preParsing = [requireType, ...[route.preParsing ?? []].flat()];
  });
}

export default fp(bodies, {
  name: 'bodies',
  dependencies: ['admission', 'expectations', 'content-codings'],
});
