/**
 * The end of the service: first it says that it is not ready, so that nothing new is sent to it; then it
 * refuses what comes, and waits until every answer has left, or another node has it to give; then it closes the port.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../../errors.js';

interface DrainTimes {
  /** How long it serves on while it says that it is not ready, ms. */
  readonly lameDuckMs: number;
  /** How long requests in flight may take after that, ms. */
  readonly drainMs: number;
  /** How long the answers of those that were stopped may take, ms. */
  readonly lastWordsMs: number;
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether the service is shutting down. */
    draining(): boolean;
    /** Resolves when every answer has left, or it has taken too long. */
    drain(times: DrainTimes): Promise<void>;
  }
}

/** Another instance, or this one after its restart, is there soon. */
const RETRY_AFTER_SECONDS = '2';

export function shuttingDown(detail: string): Problem {
  return new Problem('shutting-down', detail, { headers: { 'retry-after': RETRY_AFTER_SECONDS } });
}

async function draining(app: FastifyInstance): Promise<void> {
  let leaving = false;
  let refusing = false;
  const open = new Set<FastifyRequest>();
  let emptied = () => {};

  app.decorate('draining', () => leaving);

  app.addHook('onRequest', async (request: FastifyRequest) => {
    open.add(request);
    request.lifetime.whenOver(() => {
      open.delete(request);
      if (open.size === 0) emptied();
    });
  });

  async function refuse(): Promise<void> {
    if (refusing) throw shuttingDown('The service is shutting down.');
  }
  app.addHook('onRoute', (route) => {
    if (route.config?.compute) route.onRequest = [refuse, ...[route.onRequest ?? []].flat()];
  });

  // Kept connections would be cut when the port closes, perhaps under a request.
  app.addHook('onSend', async (_request, reply) => {
    if (leaving) reply.header('connection', 'close');
  });

  /** @returns whether all answers have left in that time. */
  const allSent = (ms: number) =>
    new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      emptied = () => {
        clearTimeout(timer);
        resolve(true);
      };
      if (open.size === 0) emptied();
    });

  app.decorate('drain', async ({ lameDuckMs, drainMs, lastWordsMs }: DrainTimes) => {
    leaving = true;
    await new Promise((resolve) => setTimeout(resolve, lameDuckMs));
    refusing = true;
    app.jobs.leaveToOthers();
    if (await allSent(drainMs)) return;
    app.cancelAll(shuttingDown('The service shut down before the end.'));
    await allSent(lastWordsMs);
  });
}

export default fp(draining, { name: 'draining', dependencies: ['lifetime'] });
