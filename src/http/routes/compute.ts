/** What the computing routes share: run a job for a request, time it, give it up when nobody waits. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Job } from '../../../workers/job.js';
import type { Problem } from '../../errors.js';
import type { Executor } from '../../pool/executor.js';
import { type PhaseClock, type PhaseTimes, phaseClock } from '../../solver/phases.js';

export interface Timings extends PhaseTimes {
  readonly total: number;
}

export interface Timed<Answer> {
  readonly answer: Answer;
  readonly timings: Timings;
}

/**
 * The body of the request and its tensors are gone afterwards.
 *
 * @param make the job, given the clock on which it books its phases.
 */
export async function compute<Answer>(
  app: FastifyInstance,
  executor: Executor,
  request: FastifyRequest,
  make: (clock: PhaseClock) => Job<Answer>,
): Promise<Timed<Answer>> {
  const start = performance.now();
  const times: PhaseTimes = { queue: 0, decode: 0, plan: 0, compute: 0, encode: 0 };
  const clock = phaseClock(times);
  let started = false;
  const signal = request.cancellation;
  const run = app.runs.begin(request.log);
  try {
    const answer = await executor.run(make(clock), {
      signal,
      onStart: () => {
        // Whatever phase comes first: it began with the wait for a worker.
        if (!started) clock('queue');
        started = true;
      },
      onProgress: (progress) => {
        app.metrics.tasks.inc({ stage: progress.stage }, progress.tasks);
        run.advance(progress);
      },
    });
    const timings: Timings = { ...times, total: performance.now() - start };
    for (const phase of Object.keys(times) as (keyof PhaseTimes)[]) {
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
    request.memory.end();
  }
}
