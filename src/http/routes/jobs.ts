/** GET and DELETE /jobs/{id}: requests that were sent with Prefer: respond-async. */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { Problem } from '../../errors.js';
import type { KeptJob } from '../plugins/jobs.js';
import { JobProgressSchema, jobAccepted, progressOf, retryAfter } from '../schemas/jobs.js';
import { answerContent } from '../schemas/media.js';
import { COMPUTE_PROBLEMS, problemResponses } from '../schemas/problem.js';
import { written } from './shared/compute.js';

const Params = Type.Object({
  id: Type.String({
    maxLength: 64,
    description: 'As in the header Location of the answer 202.',
  }),
});
type Params = Type.Static<typeof Params>;

const URL = '/jobs/:id';

export default async function jobs(app: FastifyInstance): Promise<void> {
  app.addSchema(JobProgressSchema);

  /** @throws {Problem} when there is none of this owner. */
  function found({ id }: Params, owner: string): KeptJob {
    const job = app.jobs.find(id, owner);
    if (job) return job;
    throw new Problem(
      'not-found',
      `There is no job ${id}: its answer was fetched, it was deleted, or its answer was not fetched in time.`,
    );
  }

  app.get<{ Params: Params }>(URL, {
    exposeHeadRoute: false,
    schema: {
      operationId: 'getJob',
      summary: 'What a job has come to, or its answer',
      description:
        'While it computes: 202 and its progress; ask again after Retry-After. Then once, as the request asked for it: its answer, or its problem. Afterwards the job is forgotten.',
      tags: ['gradients'],
      params: Params,
      response: {
        200: answerContent(
          ['GradientAnswer', 'ForwardAnswer'],
          'The answer, in the media type that the request asked for.',
        ),
        202: jobAccepted('It is not done yet.'),
        ...problemResponses(['not-found', ...COMPUTE_PROBLEMS]),
      },
    },
    handler: async (request, reply) => {
      const job = found(request.params, request.owner);
      const { outcome } = job;
      if (!outcome) {
        const progress = progressOf(job.request);
        return reply.code(202).header('retry-after', retryAfter(progress)).send(progress);
      }
      // Who lost the connection on the way may ask again.
      request.lifetime.whenOver((left) => {
        if (!left) job.forget();
      });
      if (outcome instanceof Problem) throw outcome;
      request.timings = outcome.timings;
      request.answerType = job.request.answerType;
      return reply.sendWritten(written(outcome));
    },
  });

  app.delete<{ Params: Params }>(URL, {
    schema: {
      operationId: 'deleteJob',
      summary: 'Cancel a job, or forget its answer',
      tags: ['gradients'],
      params: Params,
      response: {
        204: { description: 'It is forgotten; what was still computed is stopped.', type: 'null' },
        ...problemResponses(['bad-request', 'not-found']),
      },
    },
    handler: async (request, reply) => {
      found(request.params, request.owner).forget();
      return reply.code(204).send();
    },
  });
}
