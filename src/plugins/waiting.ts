/**
 * How long somebody waits for an answer: until the client goes away or the deadline passes.
 *
 * Fastify's request.signal and handlerTimeout cannot tell: to them the end of a request body is a
 * client that went away (fastify/fastify#6725), so the signal of every POST fires before its handler
 * runs, and its timeout never.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Of a computing route, from the head of the request on: aborts when nobody waits any more. */
    waiting: AbortSignal;
  }
}

/** The reason for which `waiting` aborts when the client went away. */
export class ClientGone extends Error {
  override readonly name = 'ClientGone';
}

async function waiting(app: FastifyInstance, options: { readonly deadlineMs: number }) {
  app.decorateRequest('waiting');

  async function watch(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const controller = new AbortController();
    request.waiting = controller.signal;
    const { deadlineMs } = options;
    const deadline = setTimeout(() => {
      const sentence = `There is no answer after ${deadlineMs} ms, the longest time that this service computes.`;
      controller.abort(new Problem('deadline-exceeded', sentence, { limit: deadlineMs }));
    }, deadlineMs);
    const closed = () => {
      clearTimeout(deadline);
      if (!reply.raw.writableFinished) controller.abort(new ClientGone('The client went away'));
    };
    reply.raw.once('close', closed);
  }

  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [watch, ...[route.onRequest ?? []].flat()];
  });
}

export default fp(waiting, { name: 'waiting' });
