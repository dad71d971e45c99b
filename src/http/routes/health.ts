/** GET /health/live and GET /health/ready */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { Problem } from '../../errors.js';
import { shuttingDown } from '../plugins/guards/draining.js';
import { problemResponses } from '../schemas/problem.js';
import type { RouteOptions } from './shared/options.js';

const Status = Type.Object(
  { status: Type.Enum(['ok'], { description: 'Always ok; a failure is a problem.' }) },
  { $id: 'Health' },
);

export default async function health(
  app: FastifyInstance,
  { engine }: RouteOptions,
): Promise<void> {
  app.get('/health/live', {
    logLevel: 'warn',
    config: { open: 'probe' },
    schema: {
      operationId: 'live',
      security: [],
      summary: 'The process answers',
      description: 'For a liveness probe: no answer means that the process should be started anew.',
      tags: ['service'],
      response: { 200: Status },
    },
    handler: async () => ({ status: 'ok' }),
  });

  app.get('/health/ready', {
    logLevel: 'warn',
    config: { open: 'probe' },
    schema: {
      operationId: 'ready',
      security: [],
      summary: 'Workers have answered lately, and the service is not shutting down',
      description: 'For a readiness probe: 503 means that requests should go elsewhere for now.',
      tags: ['service'],
      response: { 200: Status, ...problemResponses(['shutting-down', 'not-ready']) },
    },
    handler: async () => {
      if (app.draining()) throw shuttingDown('The service is shutting down.');
      if (!engine.healthy()) {
        throw new Problem('not-ready', 'No worker has answered for some seconds.', {
          headers: { 'retry-after': '5' },
        });
      }
      return { status: 'ok' };
    },
  });
}
