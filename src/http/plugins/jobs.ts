/**
 * Requests with Prefer: respond-async (RFC 7240) are answered by a job: it is computed whether anybody is
 * connected or not, and keeps its place, its memory and its answer until that is fetched, deleted or too old.
 */
import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Done } from '../../engine/messages.js';
import { Problem, toProblem } from '../../errors.js';
import type { JobState, SharedJobs } from '../../store/shared-jobs.js';
import { limitFor } from '../admission/share.js';
import { progressOf } from '../schemas/jobs.js';

interface JobLimits {
  /** Jobs that run or whose answers are kept. */
  readonly maxJobs: number;
  /** How long an answer is kept, ms. */
  readonly ttlMs: number;
  /** The store by which other API nodes know of jobs; null: there are none. */
  readonly queueUrl: string | null;
}

interface KeptJob {
  readonly id: string;
  /** The one that it was begun with. */
  readonly request: FastifyRequest;
  /** null: it is not done yet. */
  readonly outcome: Done | Problem | null;
  /** Whether the other API nodes have its outcome. */
  readonly known: boolean;
  /** Resolves when the other API nodes know of it. */
  readonly told: Promise<void>;
  /** Its answer is read by another request. When that has it whole, the job is forgotten; who lost the connection may ask again. */
  readBy(reader: FastifyRequest): void;
  /** Frees all that the job holds, once its answer is not being read; a running computation is stopped. */
  forget(): void;
  /** Leaves it to the other API nodes, where they have its outcome. */
  leave(): void;
}

type MutableJob = { -readonly [Key in keyof KeptJob]: KeptJob[Key] };

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route takes Prefer: respond-async. */
    respondAsync?: boolean;
  }
  interface FastifyInstance {
    jobs: {
      readonly count: number;
      /** @throws {Problem} queue-full when as many jobs are kept as are allowed. */
      requireRoom(client: string): void;
      keep(request: FastifyRequest, answer: Promise<Done>): KeptJob;
      /** Jobs are seen by those alone whose API key began them. */
      find(id: string, owner: string): KeptJob | undefined;
      /** This node is about to end: it keeps no answer that other nodes can give. */
      leaveToOthers(): void;
      /** Those of other API nodes; null: there are none. */
      readonly elsewhere: SharedJobs | null;
    };
  }
  interface FastifyRequest {
    /** It is to be answered by a job. */
    wantsJob: boolean;
  }
}

const RESPOND_ASYNC = /(?:^|,)\s*respond-async\s*(?:[;,]|$)/i;

/** How often a job's progress is written to the store, and how long other nodes trust it, ms. */
const TELL_MS = 1000;
const BELIEVED_MS = 15_000;

async function jobsPlugin(
  app: FastifyInstance,
  { maxJobs, ttlMs, queueUrl }: JobLimits,
): Promise<void> {
  const jobs = new Map<string, KeptJob>();
  let leaving = false;
  const find = (id: string, owner: string) => {
    const job = jobs.get(id);
    return job?.request.owner === owner ? job : undefined;
  };
  let elsewhere: SharedJobs | null = null;
  if (queueUrl !== null) {
    // Nothing of it is loaded where there is no queue.
    const { SharedJobs } = await import('../../store/shared-jobs.js');
    elsewhere = new SharedJobs(queueUrl, (id, owner) => find(id, owner)?.forget());
  }
  app.addHook('onClose', () => elsewhere?.close());

  app.decorateRequest('wantsJob', false);
  app.addHook('onRequest', async (request) => {
    const { prefer = '' } = request.headers;
    const takesIt = request.routeOptions.config?.respondAsync === true;
    request.wantsJob = takesIt && RESPOND_ASYNC.test([prefer].flat().join());
  });

  function requireRoom(client: string): void {
    const all = [...jobs.values()].map(({ request }) => request.client);
    const mine = 1 + all.filter((other) => other === client).length;
    const others = new Set(all.filter((other) => other !== client)).size;
    const limit = limitFor({ limit: maxJobs, mine, others });
    const actual = jobs.size + 1;
    if (actual <= limit) return;
    throw new Problem('queue-full', `Jobs: ${actual}, the limit is ${limit}.`, {
      limit,
      actual,
      headers: { 'retry-after': '10' },
    });
  }

  function keep(request: FastifyRequest, answer: Promise<Done>): KeptJob {
    const id = randomUUID();
    const end = request.lifetime.outlive();
    let timer: NodeJS.Timeout | undefined;
    let readers = 0;
    const release = () => {
      if (!jobs.has(id) && readers === 0) end();
    };
    const drop = () => {
      clearTimeout(timer);
      release();
    };
    const job: MutableJob = {
      id,
      request,
      outcome: null,
      known: false,
      told: Promise.resolve(),
      readBy: (reader) => {
        readers++;
        reader.lifetime.whenOver((left) => {
          readers--;
          if (left) release();
          else job.forget();
        });
      },
      forget: () => {
        elsewhere?.forget(id, request.owner).catch(() => {});
        if (jobs.delete(id) && !job.outcome) request.cancel();
        drop();
      },
      leave: () => {
        if (job.known && jobs.delete(id)) drop();
      },
    };
    jobs.set(id, job);
    if (elsewhere) job.told = tell(job, elsewhere);
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

  /** Tells other nodes of a job, again and again until they know its outcome or it is forgotten. */
  async function tell(job: MutableJob, others: SharedJobs): Promise<void> {
    const { id, request, outcome } = job;
    if (!jobs.has(id)) return;
    const bytes = outcome && 'bytes' in outcome ? outcome.bytes : null;
    const state = outcome ? outcomeOf(request, outcome) : { progress: progressOf(request) };
    const believed = outcome ? ttlMs : BELIEVED_MS;
    const heard = await others.tell(id, request.owner, state, bytes, believed).catch(() => false);
    job.known = outcome !== null && heard;
    if (!jobs.has(id)) others.forget(id, request.owner).catch(() => {});
    else if (!job.known) setTimeout(() => tell(job, others), TELL_MS).unref();
    else if (leaving) job.leave();
  }

  function leaveToOthers(): void {
    leaving = true;
    for (const job of jobs.values()) job.leave();
  }

  app.decorate('jobs', {
    get count() {
      return jobs.size;
    },
    requireRoom,
    keep,
    find,
    leaveToOthers,
    elsewhere,
  });
}

function outcomeOf({ answerType }: FastifyRequest, outcome: Done | Problem): JobState {
  if (!(outcome instanceof Problem)) {
    const length = outcome.bytes?.length ?? 0;
    return { answer: { length, type: answerType, timings: outcome.timings } };
  }
  const { cause: _, ...options } = outcome.options;
  return { problem: { kind: outcome.kind, message: outcome.message, options } };
}

export default fp(jobsPlugin, { name: 'jobs', dependencies: ['lifetime'] });
