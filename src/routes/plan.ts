/** POST /plan: the same body as POST /gradient; the verdict without the gradient. */
import type { FastifyInstance } from 'fastify';
import { parseLayer } from '../lora/parse.js';
import { GradientRequest } from '../lora/request.js';
import { planJob } from '../plan/plan-job.js';
import { BODY_TYPES } from '../plugins/media-types.js';
import { compute } from './compute.js';
import type { RouteOptions } from './options.js';
import { PlanAnswerSchema } from './schemas/answers.js';
import { GRADIENT_EXAMPLE } from './schemas/example.js';
import { COMPUTE_PROBLEMS, problemResponses } from './schemas/problem.js';

export default async function plan(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/plan', {
    config: { compute: true },
    handlerTimeout: options.deadlineMs,
    schema: {
      operationId: 'plan',
      summary: 'Threshold verdict and plan, without computing the gradient',
      description: 'Takes the body of POST /gradient; target and grad_output may be left out.',
      tags: ['gradients'],
      consumes: [...BODY_TYPES],
      produces: [...BODY_TYPES],
      body: { ...GradientRequest, examples: [GRADIENT_EXAMPLE] },
      response: { 200: PlanAnswerSchema, ...problemResponses(COMPUTE_PROBLEMS) },
    },
    handler: async (request, reply) => {
      const { layer, pending } = parseLayer(request.body);
      const { answer, timings } = await compute(app, options.executor, request, (times) =>
        planJob(layer, pending, times),
      );
      return reply.send(reply.encode({ ...answer, timings_ms: timings }));
    },
  });
}
