/** Expect: 100-continue. A client that asks before it sends its body is refused before it does. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../../errors.js';
import { quote } from '../../../wire/tree/quote.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Nothing stands against the request any more: its body may come. */
    inviteBody(): void;
  }
}

async function expectations(app: FastifyInstance): Promise<void> {
  const waiting = new WeakMap<IncomingMessage, ServerResponse>();
  const unmet = new WeakSet<IncomingMessage>();

  app.server.on('checkContinue', (request, response) => {
    waiting.set(request, response);
    app.server.emit('request', request, response);
  });
  app.server.on('checkExpectation', (request, response) => {
    unmet.add(request);
    app.server.emit('request', request, response);
  });

  app.decorateRequest('inviteBody', function (this: FastifyRequest) {
    waiting.get(this.raw)?.writeContinue();
    waiting.delete(this.raw);
  });
  app.addHook('onRequest', async (request) => {
    if (!unmet.has(request.raw)) return;
    throw new Problem(
      'expectation-failed',
      `Expect: ${quote(request.headers.expect)} cannot be met.`,
    );
  });
  app.addHook('onSend', async (request, reply) => {
    // The body that was not invited may or may not follow: the next request would be mistaken for it.
    if (waiting.has(request.raw)) reply.header('connection', 'close');
  });
}

export default fp(expectations, { name: 'expectations' });
