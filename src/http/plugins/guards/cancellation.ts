/**
 * One AbortSignal a request: the client has gone, the deadline has passed, or a job was cancelled.
 *
 * Fastify's own `request.signal` and `handlerTimeout` watch the 'close' of the request, which Node
 * emits as soon as a body has arrived whole; so the answer's 'close' is watched (plugins/lifetime.ts).
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
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
    /** Stops the computation: its answer is not wanted any more. */
    cancel(): void;
  }
}

interface Deadlines {
  readonly deadlineMs: number;
  /** The deadline of requests that are answered by a job, ms. */
  readonly jobDeadlineMs: number;
}

async function cancellation(app: FastifyInstance, deadlines: Deadlines): Promise<void> {
  const waiting = new Set<AbortController>();

  async function watch(request: FastifyRequest): Promise<void> {
    const controller = new AbortController();
    const limit = request.wantsJob ? deadlines.jobDeadlineMs : deadlines.deadlineMs;
    const timer = setTimeout(() => {
      const detail = `There was no answer after ${limit} ms.`;
      controller.abort(new Problem('deadline-exceeded', detail, { limit }));
    }, limit);
    // A kept job has no connection: a service that is closed is not held up by its deadline.
    timer.unref();
    const gone = () =>
      controller.abort(new Problem('client-gone', 'The client closed the connection.'));
    waiting.add(controller);
    request.lifetime.whenOver((left) => {
      clearTimeout(timer);
      waiting.delete(controller);
      if (left) gone();
    });
    request.cancellation = controller.signal;
    request.cancel = gone;
  }

  app.decorate('cancelAll', (problem: Problem) => {
    for (const controller of waiting) controller.abort(problem);
  });
  app.decorateRequest('cancellation');
  app.decorateRequest('cancel');
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [watch, ...[route.onRequest ?? []].flat()];
  });
}

export default fp(cancellation, { name: 'cancellation', dependencies: ['lifetime', 'jobs'] });
