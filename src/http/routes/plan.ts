/** POST /plan: the same body as POST /gradient; the verdict without the gradient. */
import type { FastifyInstance } from 'fastify';
import { parseLayer } from '../../request/parse.js';
import type { GradientRequest } from '../../request/request.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { compute, written } from './shared/compute.js';
import type { RouteOptions } from './shared/options.js';
import { solveOptions } from './shared/solve-options.js';

export default async function plan(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/plan', {
    config: { compute: true },
    schema: {
      operationId: 'plan',
      summary: 'Threshold verdict and plan, without computing the gradient',
      description: 'Takes the body of POST /gradient; target and grad_output may be left out.',
      tags: ['gradients'],
      body: requestBody('GradientRequest'),
      response: {
        200: answerContent('PlanAnswer', 'The verdict and the plan.'),
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const parsed = parseLayer(body);
      const { layer, problem, pending } = parsed;
      const planOptions = solveOptions(body, parsed, options.engine.rates);
      const done = await compute(
        app,
        options.engine,
        request,
        { kind: 'plan', problem: problem ?? layer, pending, options: planOptions },
        request.answerForm(),
      );
      return reply.sendWritten(written(done));
    },
  });
}
