/** POST /plan: the same body as POST /gradient; the verdict without the gradient. */
import type { FastifyInstance } from 'fastify';
import { parseLayer } from '../../request/parse.js';
import type { GradientRequest } from '../../request/request.js';
import { planJob } from '../../solver/plan-job.js';
import { GRADIENT_EXAMPLE } from '../schemas/example.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { compute } from './compute.js';
import type { RouteOptions } from './options.js';
import { solveOptions } from './solve-options.js';

export default async function plan(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/plan', {
    config: { compute: true },
    schema: {
      operationId: 'plan',
      summary: 'Threshold verdict and plan, without computing the gradient',
      description: 'Takes the body of POST /gradient; target and grad_output may be left out.',
      tags: ['gradients'],
      body: requestBody('GradientRequest', GRADIENT_EXAMPLE),
      response: {
        200: answerContent('PlanAnswer', 'The verdict and the plan.'),
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const { layer, problem, pending, kind } = parseLayer(body, request.memory);
      const planOptions = solveOptions(body, kind, options.executor.rates);
      const { answer, timings } = await compute(app, options.executor, request, (clock) =>
        planJob(problem ?? layer, pending, planOptions, clock),
      );
      return reply.send(reply.encode({ ...answer, timings_ms: timings }));
    },
  });
}
