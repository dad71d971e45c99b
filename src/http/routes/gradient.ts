/** POST /gradient */
import type { FastifyInstance } from 'fastify';
import { parseLayer, requireProblem } from '../../request/parse.js';
import type { GradientRequest } from '../../request/request.js';
import { JOB_BEGUN, PREFER } from '../schemas/jobs.js';
import { answerContent, requestBody } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { respond } from './shared/compute.js';
import type { RouteOptions } from './shared/options.js';
import { solveOptions } from './shared/solve-options.js';

export default async function gradient(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/gradient', {
    config: { compute: true, respondAsync: true },
    schema: {
      operationId: 'gradient',
      summary: 'Gradients of the LoRA adapters of one attention layer',
      description: `Give one of two objectives: \`target\` for the squared error 1/2 ||O - Y||², or \`grad_output\`, the gradient of a loss
by the attention output. Every projection with \`lora_A\` and \`lora_B\` gets a gradient of both.

The answer begins with the verdict: \`method\` and \`reason\` say which kernel was taken and why, \`threshold\` on which side
of the efficiency threshold the input lies, as a whole and head by head. \`error\` has, for every tensor, a limit that the
true relative error keeps with 99 % confidence. An answer whose limit is above a stated \`tolerance\` is not given.`,
      tags: ['gradients'],
      headers: PREFER,
      body: requestBody('GradientRequest'),
      response: {
        200: answerContent('GradientAnswer', 'Gradients, verdict, plan and timings.'),
        202: JOB_BEGUN,
        ...problemResponses(COMPUTE_PROBLEMS),
      },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const parsed = parseLayer(body);
      const jobOptions = solveOptions(body, parsed, options.engine.rates);
      const problem = requireProblem(parsed, jobOptions.encode.gradients);
      return respond(
        app,
        options,
        request,
        reply,
        { kind: 'gradient', problem, pending: parsed.pending, options: jobOptions },
        { kernels: options.engine.kernels, seed: jobOptions.seed },
      );
    },
  });
}
