/** GET /metrics: Prometheus text format. */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';

export default async function metrics(app: FastifyInstance): Promise<void> {
  app.get('/metrics', {
    logLevel: 'warn',
    schema: {
      operationId: 'metrics',
      summary: 'Metrics in the Prometheus text format',
      description: 'Counters and times since the start of the process; gauges as they are now.',
      tags: ['service'],
      produces: ['text/plain'],
      response: { 200: Type.String({ description: 'One metric a line.' }) },
    },
    handler: async (_request, reply) => {
      const { registry } = app.metrics;
      return reply.type(registry.contentType).send(await registry.metrics());
    },
  });
}
