/**
 * Requests with Prefer: respond-async (RFC 7240) are answered by a job: it is computed whether anybody is
 * connected or not, and keeps its place, its memory and its answer until that is fetched, deleted or too old.
 */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Done } from '../../engine/messages.js';
import { Problem, toProblem } from '../../errors.js';

export interface JobLimits {
  /** Jobs that run or whose answers are kept. */
  readonly maxJobs: number;
  /** How long an answer is kept, ms. */
  readonly ttlMs: number;
}

export interface KeptJob {
  readonly id: string;
  /** The one that it was begun with. */
  readonly request: FastifyRequest;
  /** null: it is not done yet. */
  readonly outcome: Done | Problem | null;
  /** Gives back all that it holds; what is still computed is stopped. */
  forget(): void;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route takes Prefer: respond-async. */
    respondAsync?: boolean;
  }
  interface FastifyInstance {
    jobs: {
      readonly count: number;
      /** @throws {Problem} queue-full when as many jobs are kept as are allowed. */
      requireRoom(): void;
      keep(request: FastifyRequest, answer: Promise<Done>): KeptJob;
      /** Jobs are seen by those alone whose API key began them. */
      find(id: string, owner: string): KeptJob | undefined;
    };
  }
  interface FastifyRequest {
    /** It is to be answered by a job. */
    wantsJob: boolean;
  }
}

const RESPOND_ASYNC = /(?:^|,)\s*respond-async\s*(?:[;,]|$)/i;

async function jobsPlugin(app: FastifyInstance, { maxJobs, ttlMs }: JobLimits): Promise<void> {
  const jobs = new Map<string, KeptJob>();

  app.decorateRequest('wantsJob', false);
  app.addHook('onRequest', async (request) => {
    const { prefer = '' } = request.headers;
    const takesIt = request.routeOptions.config?.respondAsync === true;
    request.wantsJob = takesIt && RESPOND_ASYNC.test([prefer].flat().join());
  });

  function requireRoom(): void {
    if (jobs.size < maxJobs) return;
    throw new Problem('queue-full', `Jobs: ${jobs.size + 1}, the limit is ${maxJobs}.`, {
      limit: maxJobs,
      actual: jobs.size + 1,
      headers: { 'retry-after': '10' },
    });
  }

  function keep(request: FastifyRequest, answer: Promise<Done>): KeptJob {
    const id = randomUUID();
    const end = request.lifetime.outlive();
    let timer: NodeJS.Timeout | undefined;
    const job: { -readonly [Key in keyof KeptJob]: KeptJob[Key] } = {
      id,
      request,
      outcome: null,
      forget: () => {
        if (!jobs.delete(id)) return;
        clearTimeout(timer);
        if (!job.outcome) request.cancel();
        end();
      },
    };
    jobs.set(id, job);
    answer.catch(toProblem).then((outcome) => {
      job.outcome = outcome;
      // Its tensors: only the answer is kept.
      request.body = undefined;
      timer = setTimeout(job.forget, ttlMs).unref();
      const failed = outcome instanceof Problem && outcome;
      const line = {
        ...{ job: id, ...request.notes, timings_ms: request.timings },
        ...(failed && { problem: failed.kind, detail: failed.message }),
        ...(failed && failed.statusCode === 500 && { err: failed.options.cause ?? failed }),
      };
      request.log[failed ? 'warn' : 'info'](line, `Job ${failed ? 'failed' : 'done'}`);
    });
    return job;
  }

  app.decorate('jobs', {
    get count() {
      return jobs.size;
    },
    requireRoom,
    keep,
    find: (id: string, owner: string) => {
      const job = jobs.get(id);
      return job?.request.owner === owner ? job : undefined;
    },
  });
}

export default fp(jobsPlugin, { name: 'jobs', dependencies: ['lifetime'] });
