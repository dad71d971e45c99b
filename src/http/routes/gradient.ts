/** POST /gradient */
import type { FastifyInstance } from 'fastify';
import { parseLayer, requireProblem } from '../../request/parse.js';
import type { GradientRequest } from '../../request/request.js';
import { gradientJob } from '../../solver/gradient-job.js';
import { GRADIENT_EXAMPLE } from '../schemas/example.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { compute } from './compute.js';
import type { RouteOptions } from './options.js';
import { solveOptions } from './solve-options.js';

export default async function gradient(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/gradient', {
    config: { compute: true },
    schema: {
      operationId: 'gradient',
      summary: 'Gradients of the LoRA adapters of one attention layer',
      tags: ['gradients'],
      body: requestBody('GradientRequest', GRADIENT_EXAMPLE),
      response: {
        200: answerContent('GradientAnswer', 'Gradients, verdict, plan and timings.'),
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const outputs = body.outputs ?? ['gradients'];
      const gradients = outputs.includes('gradients');
      const parsed = parseLayer(body, request.memory);
      const problem = requireProblem(parsed, gradients);
      const jobOptions = {
        ...solveOptions(body, parsed.kind, options.executor.rates),
        gradients,
        batched: parsed.batched,
      };
      const { answer, timings } = await compute(app, options.executor, request, (clock) =>
        gradientJob(problem, parsed.pending, jobOptions, clock),
      );
      const { method, threshold } = answer;
      app.metrics.gradients.inc({ method, below_threshold: String(threshold.below_threshold) });
      request.log.info({ dims: problem.dims, method, timings_ms: timings }, 'gradient');
      return reply.send(reply.encode({ ...answer, timings_ms: timings, seed: jobOptions.seed }));
    },
  });
}
