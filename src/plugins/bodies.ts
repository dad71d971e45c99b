/** Request bodies: streamed into shared memory, then decoded into a tree whose leaves are tensors. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../errors.js';
import { decodeJson } from '../tensor/json.js';
import { decodeMsgpack } from '../tensor/msgpack.js';
import type { Decoded } from '../tensor/tree.js';
import { WireError } from '../tensor/wire-error.js';
import { JSON_TYPE, MSGPACK_TYPES } from './media-types.js';

export interface BodyLimits {
  readonly maxBodyBytes: number;
  readonly maxJsonBytes: number;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** In which form the tensors came, and are to go back. */
    dialect: Decoded['dialect'];
  }
}

function tooLarge(limit: number, actual: number): Problem {
  return new Problem('body-too-large', `The body has ${actual} bytes; the limit is ${limit}.`, {
    limit,
    actual,
    // The rest of the body is not read: the connection is of no more use.
    headers: { connection: 'close' },
  });
}

/**
 * The whole body in one SharedArrayBuffer, so that workers see the tensors in it without a copy.
 *
 * @throws {Problem} as soon as more than `limit` bytes are announced or have arrived.
 */
async function readShared(
  request: FastifyRequest,
  payload: AsyncIterable<Buffer>,
  limit: number,
): Promise<Uint8Array> {
  const announced = Number(request.headers['content-length'] ?? 0);
  if (announced > limit) throw tooLarge(limit, announced);
  let body = new Uint8Array(new SharedArrayBuffer(announced || 65_536));
  let length = 0;
  for await (const chunk of payload) {
    const needed = length + chunk.length;
    if (needed > limit) throw tooLarge(limit, needed);
    if (needed > body.length) {
      // Only without Content-Length (chunked transfer): grow by doubling.
      request.reserveBytes(needed);
      const larger = new Uint8Array(new SharedArrayBuffer(Math.min(limit, 2 * needed)));
      larger.set(body.subarray(0, length));
      body = larger;
    }
    body.set(chunk, length);
    length = needed;
  }
  return body.subarray(0, length);
}

function decodeWith(
  decode: (body: Uint8Array) => Decoded,
  request: FastifyRequest,
  body: Uint8Array,
): unknown {
  try {
    const { value, dialect } = decode(body);
    request.dialect = dialect;
    return value;
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const { kind, pointer, limit, actual } = error;
    throw new Problem(kind, error.message, { pointer, limit, actual, cause: error });
  }
}

async function bodies(app: FastifyInstance, limits: BodyLimits): Promise<void> {
  app.decorateRequest('dialect', 'tensor');
  app.removeAllContentTypeParsers();
  app.addContentTypeParser([...MSGPACK_TYPES], async (request: FastifyRequest, payload) =>
    decodeWith(decodeMsgpack, request, await readShared(request, payload, limits.maxBodyBytes)),
  );
  app.addContentTypeParser(JSON_TYPE, async (request: FastifyRequest, payload) =>
    decodeWith(decodeJson, request, await readShared(request, payload, limits.maxJsonBytes)),
  );
  app.addHook('onRequest', async (request) => {
    const encoding = request.headers['content-encoding'];
    if (encoding !== undefined && encoding !== 'identity') {
      throw new Problem(
        'unsupported-media-type',
        `Content-Encoding: ${encoding} is not supported; send the body as it is.`,
      );
    }
  });
}

export default fp(bodies, { name: 'bodies', dependencies: ['admission'] });
