/** Answers: the media type that Accept asks for, tensors in the form of the request. */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { AnswerForm } from '../../engine/messages.js';
import { Problem } from '../../errors.js';
import { quote } from '../../wire/tree/quote.js';
import { type PaceLimits, watchPace } from '../admission/pace.js';
import { BODY_TYPES, JSON_TYPE, MSGPACK_TYPES } from '../media-types.js';
import { chooseType } from '../negotiation.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The media type of the answer; that of the request unless Accept prefers another. */
    answerType: string;
    /** How the answer is to be written. */
    answerForm(extra?: object): AnswerForm;
  }
  interface FastifyReply {
    /** Send an answer that is written already. */
    sendWritten(bytes: Uint8Array<ArrayBuffer>): FastifyReply;
    /** The same for one that comes in parts. */
    sendParts(parts: AsyncIterable<Uint8Array>, length: number): FastifyReply;
  }
}

/**
 * A request without a body is answered in MessagePack, unless Accept prefers JSON.
 *
 * @throws {Problem} before any work is done, when no answer would be acceptable.
 */
async function negotiate(request: FastifyRequest): Promise<void> {
  const { accept } = request.headers;
  const chosen = chooseType(accept, [request.mediaType ?? MSGPACK_TYPES[0], ...BODY_TYPES]);
  if (chosen === null) {
    throw new Problem(
      'not-acceptable',
      `Accept: ${quote(accept)} allows none of ${BODY_TYPES.join(', ')}.`,
    );
  }
  request.answerType = chosen;
}

function answerForm(this: FastifyRequest, extra: object = {}): AnswerForm {
  return { json: this.answerType === JSON_TYPE, dialect: this.dialect, extra };
}

/** Bytes that are handed to a socket at once: what it has taken tells how fast the client reads. */
const PIECE = 2 ** 18;

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
}

async function* piecesOf(parts: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const part of parts) yield* pieces(part);
}

/** Closes the connection of a client that does not read what it asked for. */
function watchReader({ raw }: FastifyReply, pace: PaceLimits): void {
  const { socket } = raw;
  if (!socket) return;
  const before = socket.bytesWritten;
  const sent = () => socket.bytesWritten - socket.writableLength - before;
  const stop = watchPace(pace, sent, () => socket.destroy());
  raw.once('close', stop);
}

function describe(reply: FastifyReply): void {
  const { answerType } = reply.request;
  reply
    .header('vary', 'accept')
    .type(answerType === JSON_TYPE ? `${JSON_TYPE}; charset=utf-8` : answerType);
}

async function answers(app: FastifyInstance, { pace }: { pace: PaceLimits }): Promise<void> {
  app.decorateRequest('answerType', '');
  app.decorateRequest('answerForm', answerForm);
  const stream = (
    reply: FastifyReply,
    from: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    length: number,
  ) => {
    reply.header('content-length', length);
    watchReader(reply, pace);
    return reply.send(Readable.from(from, { objectMode: false, highWaterMark: PIECE }));
  };
  app.decorateReply(
    'sendWritten',
    function (this: FastifyReply, bytes: Uint8Array<ArrayBuffer>): FastifyReply {
      describe(this);
      if (bytes.length > PIECE) return stream(this, pieces(bytes), bytes.length);
      return this.send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
    },
  );
  app.decorateReply(
    'sendParts',
    function (this: FastifyReply, parts: AsyncIterable<Uint8Array>, length: number): FastifyReply {
      describe(this);
      return stream(this, piecesOf(parts), length);
    },
  );
  app.addHook('onRoute', (route) => {
    const { 200: answer } = (route.schema?.response ?? {}) as Record<number, unknown>;
    // What answers without a body suits every client.
    if (route.config?.compute && answer) {
      route.preParsing = [negotiate, ...[route.preParsing ?? []].flat()];
    }
  });
}

export default fp(answers, { name: 'answers' });
