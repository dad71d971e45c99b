/** POST /gradient */
import type { FastifyInstance } from 'fastify';
import { parseLayer, requireProblem } from '../../request/parse.js';
import type { GradientRequest } from '../../request/request.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { compute, written } from './compute.js';
import type { RouteOptions } from './options.js';
import { solveOptions } from './solve-options.js';

export default async function gradient(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/gradient', {
    config: { compute: true },
    schema: {
      operationId: 'gradient',
      summary: 'Gradients of the LoRA adapters of one attention layer',
      tags: ['gradients'],
      body: requestBody('GradientRequest'),
      response: {
        200: answerContent('GradientAnswer', 'Gradients, verdict, plan and timings.'),
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const parsed = parseLayer(body);
      const jobOptions = solveOptions(body, parsed, options.engine.rates);
      const problem = requireProblem(parsed, jobOptions.encode.gradients);
      const done = await compute(
        app,
        options.engine,
        request,
        { kind: 'gradient', problem, pending: parsed.pending, options: jobOptions },
        request.answerForm({ kernels: options.engine.kernels, seed: jobOptions.seed }),
      );
      return reply.sendWritten(written(done));
    },
  });
}
