/** GET /health/live and GET /health/ready */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { Problem } from '../../errors.js';
import { problemResponses } from '../schemas/problem.js';

const Status = Type.Object(
  { status: Type.Enum(['ok'], { description: 'Always ok; a failure is a problem.' }) },
  { $id: 'Health' },
);

/** The workers are warm before the service listens, so it is ready until it begins to close. */
export default async function health(app: FastifyInstance): Promise<void> {
  app.get('/health/live', {
    logLevel: 'warn',
    schema: {
      operationId: 'live',
      summary: 'The process answers',
      tags: ['service'],
      response: { 200: Status },
    },
    handler: async () => ({ status: 'ok' }),
  });

  app.get('/health/ready', {
    logLevel: 'warn',
    schema: {
      operationId: 'ready',
      summary: 'A warm-up task has run in every worker, and the service is not shutting down',
      tags: ['service'],
      response: { 200: Status, ...problemResponses(['shutting-down']) },
    },
    handler: async () => {
      if (app.draining()) throw new Problem('shutting-down', 'The service is shutting down.');
      return { status: 'ok' };
    },
  });
}
