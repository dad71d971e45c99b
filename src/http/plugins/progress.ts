/** What the running computations have come to: in the log when they take long, in the metrics, and for jobs. */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import type { ProgressReport } from '../../engine/messages.js';

/** A computation that is under way. */
export interface Run {
  /** performance.now() at its start. */
  readonly start: number;
  /** Share of its work that is done, in [0, 1]. */
  readonly fraction: number;
  /** The stage that was reported last; null: none yet. */
  readonly stage: string | null;
  /** Tasks done, by stage. */
  readonly tasks: Readonly<Record<string, number>>;
}

declare module 'fastify' {
  interface FastifyInstance {
    runs: {
      /** Shows the run from now on. `end` must be called in any case. */
      begin(log: FastifyBaseLogger): Run & { advance(report: ProgressReport): void; end(): void };
      /** The one that has been running longest. */
      oldest(): Run | null;
    };
  }
  interface FastifyRequest {
    /** Its computation; null: none yet. */
    run: Run | null;
    /** performance.now() when its head came. */
    arrived: number;
  }
}

const LOG_EVERY_MS = 5000;

async function progress(app: FastifyInstance): Promise<void> {
  // In the order of their start.
  const running = new Set<Run>();

  app.decorateRequest('run', null);
  app.decorateRequest('arrived', 0);
  app.addHook('onRequest', async (request) => {
    request.arrived = performance.now();
  });
  app.decorate('runs', {
    begin: (log: FastifyBaseLogger) => {
      const start = performance.now();
      let logged = start;
      const run = {
        start,
        fraction: 0,
        stage: null as string | null,
        tasks: {} as Record<string, number>,
        advance: ({ stage, fraction, tasks }: ProgressReport) => {
          run.stage = stage;
          if (fraction !== null) run.fraction = fraction;
          for (const [name, count] of Object.entries(tasks)) {
            run.tasks[name] = (run.tasks[name] ?? 0) + count;
          }
          const now = performance.now();
          if (now - logged < LOG_EVERY_MS) return;
          logged = now;
          const percent = Math.round(100 * run.fraction);
          log.info({ stage, percent, elapsed_ms: Math.round(now - start) }, 'progress');
        },
        end: () => {
          running.delete(run);
        },
      };
      running.add(run);
      return run;
    },
    oldest: () => running.values().next().value ?? null,
  });
}

export default fp(progress, { name: 'progress' });
