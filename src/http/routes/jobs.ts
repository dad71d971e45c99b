/** GET and DELETE /jobs/{id}: requests that were sent with Prefer: respond-async. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { Problem } from '../../errors.js';
import type { ProblemKind } from '../../problem-kinds.js';
import type { Timings } from '../../solver/phases.js';
import type { JobState } from '../../store/shared-jobs.js';
import { type JobProgress, jobAccepted, progressOf, retryAfter } from '../schemas/jobs.js';
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

const tellProgress = (reply: FastifyReply, progress: JobProgress) =>
  reply.code(202).header('retry-after', retryAfter(progress)).send(progress);

export default async function jobs(app: FastifyInstance): Promise<void> {
  const { elsewhere } = app.jobs;

  /** A job of another API node. @throws {Problem} when there is none of this owner. */
  async function foundElsewhere({ id }: Params, owner: string): Promise<JobState> {
    const state = await elsewhere?.find(id, owner);
    if (state) return state;
    throw new Problem(
      'not-found',
      `There is no job ${id}: its answer was fetched, it was deleted, or its answer was not fetched in time.`,
    );
  }

  async function answerElsewhere(
    request: FastifyRequest<{ Params: Params }>,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const { id } = request.params;
    const { progress, answer, problem } = await foundElsewhere(request.params, request.owner);
    if (progress) return tellProgress(reply, progress as JobProgress);
    request.lifetime.whenOver((left) => {
      if (!left) elsewhere?.forget(id, request.owner).catch(() => {});
    });
    if (problem) throw new Problem(problem.kind as ProblemKind, problem.message, problem.options);
    const { length, type, timings } = answer!;
    request.timings = timings as Timings;
    request.answerType = type;
    return reply.sendParts(elsewhere!.read(id, request.owner, length), length);
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
      const job = app.jobs.find(request.params.id, request.owner);
      if (!job) return answerElsewhere(request, reply);
      const { outcome } = job;
      if (!outcome) return tellProgress(reply, progressOf(job.request));
      job.readBy(request);
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
      const { id } = request.params;
      const job = app.jobs.find(id, request.owner);
      if (job) job.forget();
      else {
        await foundElsewhere(request.params, request.owner);
        await elsewhere?.forget(id, request.owner);
      }
      return reply.code(204).send();
    },
  });
}
