/** The progress of a job that is not done yet. */
import type { FastifyRequest } from 'fastify';
import Type, { type Static } from 'typebox';
import { JSON_TYPE } from '../media-types.js';

export const JobProgressSchema = Type.Object(
  {
    status: Type.Enum(['waiting', 'running'], {
      description: 'waiting: for memory; running: tasks are computed or wait for a worker.',
    }),
    stage: Type.Union([Type.String(), Type.Null()], {
      description: 'Stage that was reported last: decode, attention, ...; null: none yet.',
    }),
    tasks: Type.Record(Type.String(), Type.Integer(), {
      description: 'Tasks that are done, by stage.',
    }),
    fraction: Type.Number({
      description:
        'Share of the work that is done. It never goes back: where another kernel has to take the place of the first, it rests until that has come as far.',
    }),
    elapsed_ms: Type.Number({ description: 'Since the request came, ms.' }),
  },
  { $id: 'JobProgress', description: 'The progress of a job.' },
);
export type JobProgress = Static<typeof JobProgressSchema>;

export function progressOf({ run, arrived }: FastifyRequest): JobProgress {
  return {
    status: run ? 'running' : 'waiting',
    stage: run?.stage ?? null,
    tasks: { ...run?.tasks },
    fraction: run?.fraction ?? 0,
    elapsed_ms: Math.round(performance.now() - arrived),
  };
}

/** Seconds: short jobs are asked often, long ones seldom. */
export function retryAfter({ elapsed_ms }: JobProgress): string {
  return String(Math.min(10, Math.max(1, Math.round(elapsed_ms / 10_000))));
}

const header = (description: string) => ({ description, type: 'string' });

/** The response 202. */
export function jobAccepted(description: string, headers: Record<string, object> = {}) {
  return {
    description,
    headers: { 'retry-after': header('Seconds after which to ask again.'), ...headers },
    content: { [JSON_TYPE]: { schema: { $ref: 'JobProgress#' } } },
  };
}

/** The answer to a request with Prefer: respond-async. */
export const JOB_BEGUN = jobAccepted('Asked for by Prefer: respond-async: a job computes it.', {
  location: header('Where the job is: GET tells its progress and then its answer, DELETE ends it.'),
  'preference-applied': header('respond-async'),
});

/** The header that asks for it. */
export const PREFER = Type.Object({
  prefer: Type.Optional(
    Type.String({
      description:
        'respond-async: answer 202 at once with the Location of a job, which computes whether the client stays connected or not.',
    }),
  ),
});
