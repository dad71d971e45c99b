/** POST /forward */
import type { FastifyInstance } from 'fastify';
import { parseLayer } from '../../request/parse.js';
import type { ForwardRequest } from '../../request/request.js';
import { JOB_BEGUN, PREFER } from '../schemas/jobs.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { respond } from './shared/compute.js';
import type { RouteOptions } from './shared/options.js';
import { solveOptions } from './shared/solve-options.js';

export default async function forward(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: ForwardRequest }>('/forward', {
    config: { compute: true, respondAsync: true },
    schema: {
      operationId: 'forward',
      summary: 'Output of one attention layer with its LoRA adapters',
      description:
        'Takes the body of POST /gradient without target, grad_output and outputs. Computed by the same method, with the same tolerance and the same error report, so that forward and backward of one step agree.',
      tags: ['gradients'],
      headers: PREFER,
      body: requestBody('ForwardRequest'),
      response: {
        200: answerContent('ForwardAnswer', 'Attention output, verdict, plan and timings.'),
        202: JOB_BEGUN,
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const parsed = parseLayer(body);
      const { layer, pending } = parsed;
      const solve = solveOptions(body, parsed, options.engine.rates);
      return respond(
        app,
        options,
        request,
        reply,
        { kind: 'forward', layer, pending, options: solve },
        { kernels: options.engine.kernels, seed: solve.seed },
      );
    },
  });
}
