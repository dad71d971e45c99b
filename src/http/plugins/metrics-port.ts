/** GET /metrics on a port of its own, which a firewall can keep to the machines of the operator. */
import Fastify, { type FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import metricsRoute from '../routes/metrics.js';

async function metricsPort(
  app: FastifyInstance,
  { host, port }: { host: string; port: number },
): Promise<void> {
  const side = Fastify();
  side.decorate('metrics', app.metrics);
  await side.register(metricsRoute);
  app.addHook('onListen', async () => {
    await side.listen({ host, port });
  });
  app.addHook('onClose', () => side.close());
}

export default fp(metricsPort, { name: 'metrics-port', dependencies: ['metrics'] });
