/** Answers: the media type that Accept asks for, tensors in the form of the request. */
import accepts from '@fastify/accepts';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';
import { encodeJson } from '../../wire/json.js';
import { encodeMsgpack } from '../../wire/msgpack.js';
import { BODY_TYPES, JSON_TYPE, MSGPACK_TYPES } from '../media-types.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The media type of the answer; that of the request unless Accept prefers another. */
    answerType: string;
  }
  interface FastifyReply {
    /** Encode the answer; its leaves may be encoded tensors. */
    encode(answer: object): Buffer;
  }
}

/**
 * A request without a body is answered in MessagePack, unless Accept prefers JSON.
 *
 * @throws {Problem} before any work is done, when no answer would be acceptable.
 */
async function negotiate(request: FastifyRequest): Promise<void> {
  const offered = [request.mediaType ?? MSGPACK_TYPES[0], ...BODY_TYPES];
  const chosen = request.accepts().type(offered);
  if (typeof chosen !== 'string') {
    throw new Problem(
      'not-acceptable',
      `Accept: ${request.headers.accept} allows none of ${BODY_TYPES.join(', ')}.`,
    );
  }
  request.answerType = chosen;
}

function encode(this: FastifyReply, answer: object): Buffer {
  const { answerType, dialect } = this.request;
  this.type(answerType === JSON_TYPE ? `${JSON_TYPE}; charset=utf-8` : answerType);
  return answerType === JSON_TYPE ? encodeJson(answer, dialect) : encodeMsgpack(answer, dialect);
}

async function answers(app: FastifyInstance): Promise<void> {
  await app.register(accepts);
  app.decorateRequest('answerType', '');
  app.decorateReply('encode', encode);
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) {
      route.preParsing = [negotiate, ...[route.preParsing ?? []].flat()];
    }
  });
}

export default fp(answers, { name: 'answers' });
