/** Answers: the media type that Accept asks for, tensors in the form of the request. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';
import type { AnswerForm } from '../../solver/engine-messages.js';
import { quote } from '../../wire/tree/quote.js';
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

function sendWritten(this: FastifyReply, bytes: Uint8Array<ArrayBuffer>): FastifyReply {
  const { answerType } = this.request;
  this.header('vary', 'accept').type(
    answerType === JSON_TYPE ? `${JSON_TYPE}; charset=utf-8` : answerType,
  );
  return this.send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

async function answers(app: FastifyInstance): Promise<void> {
  app.decorateRequest('answerType', '');
  app.decorateRequest('answerForm', answerForm);
  app.decorateReply('sendWritten', sendWritten);
  app.addHook('onRoute', (route) => {
    const { 200: answer } = (route.schema?.response ?? {}) as Record<number, unknown>;
    // What answers without a body suits every client.
    if (route.config?.compute && answer) {
      route.preParsing = [negotiate, ...[route.preParsing ?? []].flat()];
    }
  });
}

export default fp(answers, { name: 'answers' });
