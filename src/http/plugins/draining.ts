/** While the service shuts down it finishes what it has and keeps no connection. */
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether the service is shutting down. */
    draining(): boolean;
  }
}

async function draining(app: FastifyInstance): Promise<void> {
  let closing = false;
  app.decorate('draining', () => closing);
  app.addHook('preClose', async () => {
    closing = true;
  });
  // A connection that was busy when the server closed would else be kept alive, and the server with it.
  app.addHook('onSend', async (_request, reply) => {
    if (closing) reply.header('connection', 'close');
  });
}

export default fp(draining, { name: 'draining' });
