/** POST /gradient */
import type { FastifyInstance } from 'fastify';
import { parseLayer, requireProblem } from '../lora/parse.js';
import { GradientRequest } from '../lora/request.js';
import { gradientJob } from '../plan/gradient-job.js';
import { BODY_TYPES } from '../plugins/media-types.js';
import { compute } from './compute.js';
import type { RouteOptions } from './options.js';
import { GradientAnswerSchema } from './schemas/answers.js';
import { GRADIENT_EXAMPLE } from './schemas/example.js';
import { COMPUTE_PROBLEMS, problemResponses } from './schemas/problem.js';

export default async function gradient(app: FastifyInstance, options: RouteOptions): Promise<void> {
  app.post<{ Body: GradientRequest }>('/gradient', {
    config: { compute: true },
    handlerTimeout: options.deadlineMs,
    schema: {
      operationId: 'gradient',
      summary: 'Gradients of the LoRA adapters of one attention layer',
      tags: ['gradients'],
      consumes: [...BODY_TYPES],
      produces: [...BODY_TYPES],
      body: { ...GradientRequest, examples: [GRADIENT_EXAMPLE] },
      response: { 200: GradientAnswerSchema, ...problemResponses(COMPUTE_PROBLEMS) },
    },
    handler: async (request, reply) => {
      const { body } = request;
      const outputs = body.outputs ?? ['gradients'];
      const gradients = outputs.includes('gradients');
      const parsed = parseLayer(body);
      const problem = requireProblem(parsed, gradients);
      const jobOptions = {
        gradients,
        attentionOutput: outputs.includes('attention_output'),
        batched: parsed.batched,
      };
      const { answer, timings } = await compute(app, options.executor, request, (times) =>
        gradientJob(problem, parsed.pending, jobOptions, times),
      );
      const { method, threshold } = answer;
      app.metrics.gradients.inc({ method, below_threshold: String(threshold.below_threshold) });
      request.log.info({ dims: problem.dims, method, timings_ms: timings }, 'gradient');
      return reply.send(reply.encode({ ...answer, timings_ms: timings, seed: body.seed ?? 0 }));
    },
  });
}
