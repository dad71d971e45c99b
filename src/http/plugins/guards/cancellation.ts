/**
 * One AbortSignal a request: the client has gone, or the deadline has passed.
 *
 * Fastify's own `request.signal` and `handlerTimeout` watch the 'close' of the request, which Node
 * emits as soon as a body has arrived whole; so the answer's 'close' is watched here.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../../errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Stop every computation; each request is answered with the problem. */
    cancelAll(problem: Problem): void;
  }
  interface FastifyRequest {
    /** Aborts with a Problem (client-gone or deadline-exceeded) as its reason. */
    cancellation: AbortSignal;
  }
}

async function cancellation(app: FastifyInstance, options: { deadlineMs: number }): Promise<void> {
  const { deadlineMs } = options;
  const waiting = new Set<AbortController>();

  async function watch(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const controller = new AbortController();
    const timer = setTimeout(() => {
      controller.abort(
        new Problem('deadline-exceeded', `There was no answer after ${deadlineMs} ms.`, {
          limit: deadlineMs,
        }),
      );
    }, deadlineMs);
    waiting.add(controller);
    reply.raw.once('close', () => {
      clearTimeout(timer);
      waiting.delete(controller);
      if (!reply.raw.writableFinished) {
        controller.abort(new Problem('client-gone', 'The client closed the connection.'));
      }
    });
    request.cancellation = controller.signal;
  }

  app.decorate('cancelAll', (problem: Problem) => {
    for (const controller of waiting) controller.abort(problem);
  });
  app.decorateRequest('cancellation');
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [watch, ...[route.onRequest ?? []].flat()];
  });
}

export default fp(cancellation, { name: 'cancellation' });
