/**
 * Metrics and health on a port of their own, which a firewall can keep to the machines of the operator. Node takes up one new
 * connection of each port in a round of its event loop: here a probe does not wait behind those of all clients.
 */
import Fastify, { type FastifyInstance } from 'fastify';
import { toProblem } from '../../errors.js';
import { answerProblem } from '../plugins/problems.js';
import healthRoutes from './health.js';
import metricsRoute from './metrics.js';
import type { RouteOptions } from './shared/options.js';

export function operatorPort(
  app: FastifyInstance,
  options: RouteOptions,
  at: { host: string; port: number },
): void {
  const side = Fastify();
  side.decorate('metrics', app.metrics);
  side.decorate('draining', app.draining);
  side.setSerializerCompiler(() => (data) => JSON.stringify(data));
  side.setErrorHandler((error, request, reply) => answerProblem(toProblem(error), request, reply));
  side.register(metricsRoute);
  side.register(healthRoutes, options);
  app.addHook('onListen', async () => {
    await side.listen(at);
  });
  app.addHook('onClose', () => side.close());
}
