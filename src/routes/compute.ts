/** What the computing routes share: run a job for a request, time it, give it up when nobody waits. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Job } from '../../workers/kernels/job.js';
import type { Problem } from '../errors.js';
import type { PhaseTimes } from '../plan/phases.js';
import type { Executor } from '../pool/executor.js';

export interface Timings extends PhaseTimes {
  queue: number;
  total: number;
}

export interface Timed<Answer> {
  readonly answer: Answer;
  readonly timings: Timings;
}

/** @param make the job, given the record in which it books its phases. */
export async function compute<Answer>(
  app: FastifyInstance,
  executor: Executor,
  request: FastifyRequest,
  make: (times: PhaseTimes) => Job<Answer>,
): Promise<Timed<Answer>> {
  const start = performance.now();
  let queue: number | null = null;
  const times: PhaseTimes = { decode: 0, plan: 0, compute: 0, encode: 0 };
  const signal = request.cancellation;
  const run = app.runs.begin(request.log);
  try {
    const answer = await executor.run(make(times), {
      signal,
      onStart: () => {
        queue ??= performance.now() - start;
      },
      onProgress: (progress) => {
        app.metrics.tasks.inc({ stage: progress.stage });
        run.advance(progress);
      },
    });
    // The first phase began with the wait for a worker.
    const waited = queue ?? 0;
    const timings: Timings = {
      ...times,
      decode: Math.max(0, times.decode - waited),
      queue: waited,
      total: performance.now() - start,
    };
    for (const phase of ['queue', 'decode', 'plan', 'compute', 'encode'] as const) {
      // A phase that the job does not have took no time at all.
      if (timings[phase] > 0) app.metrics.phase.observe({ phase }, timings[phase] / 1000);
    }
    return { answer, timings };
  } catch (error) {
    if (signal.aborted) {
      const reason = (signal.reason as Problem).kind;
      const elapsed_ms = Math.round(performance.now() - start);
      app.metrics.cancelled.inc({ reason });
      request.log.warn({ reason, elapsed_ms }, 'The computation was given up');
    }
    throw error;
  } finally {
    run.end();
  }
}
