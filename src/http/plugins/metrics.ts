/** What an operator sees at GET /metrics, for Prometheus. */
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Engine } from '../../solver/engine.js';

const SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];

export interface ComputeMetrics {
  readonly registry: Registry;
  /** Requests answered with a problem, and those whose client has gone. */
  readonly problems: Counter<'type'>;
  /** Tasks that workers have finished, by stage. */
  readonly tasks: Counter<'stage'>;
  /** Seconds in each phase of a request: queue, decode, plan, compute, encode. */
  readonly phase: Histogram<'phase'>;
  /** Gradients computed, by kernel and by the side of the efficiency threshold. */
  readonly gradients: Counter<'method' | 'below_threshold'>;
  /** Computations that were given up: client-gone or deadline-exceeded. */
  readonly cancelled: Counter<'reason'>;
}

declare module 'fastify' {
  interface FastifyInstance {
    metrics: ComputeMetrics;
  }
}

async function metrics(app: FastifyInstance, options: { engine: Engine }): Promise<void> {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });

  const requests = new Histogram({
    name: 'loragrad_http_request_duration_seconds',
    help: 'Time from the head of a request to the end of its answer',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: SECONDS,
    registers,
  });
  const problems = new Counter({
    name: 'loragrad_problems_total',
    help: 'Requests answered with a problem, by its type',
    labelNames: ['type'] as const,
    registers,
  });
  const { engine } = options;
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  gauge('loragrad_workers', 'Worker threads', () => engine.load().workers);
  gauge('loragrad_workers_busy', 'Worker threads that run a task', () => engine.load().busy);
  gauge('loragrad_jobs', 'Jobs running or waiting', () => engine.load().jobs);
  gauge('loragrad_tasks_waiting', 'Tasks waiting for a worker', () => engine.load().waiting);
  gauge('loragrad_inflight_requests', 'Requests admitted', () => app.admitted().requests);
  gauge(
    'loragrad_inflight_bytes',
    'Bytes of their bodies and of the tensors that they refer to',
    () => app.admitted().bytes,
  );

  gauge(
    'loragrad_oldest_job_seconds',
    'How long the oldest running computation has been under way; 0 when there is none',
    () => {
      const run = app.runs.oldest();
      return run ? (performance.now() - run.start) / 1000 : 0;
    },
  );
  gauge(
    'loragrad_oldest_job_progress_ratio',
    'Share of its work that is done',
    () => app.runs.oldest()?.fraction ?? 0,
  );
  new Gauge({
    name: 'loragrad_kernel_info',
    help: 'Always 1; the label says which build of the inner loops is in use',
    labelNames: ['simd'] as const,
    registers,
  }).set({ simd: engine.simd }, 1);

  app.decorate('metrics', {
    registry,
    problems,
    phase: new Histogram({
      name: 'loragrad_phase_duration_seconds',
      help: 'Time of a request in each phase',
      labelNames: ['phase'] as const,
      buckets: SECONDS,
      registers,
    }),
    tasks: new Counter({
      name: 'loragrad_tasks_total',
      help: 'Tasks that workers have finished',
      labelNames: ['stage'] as const,
      registers,
    }),
    gradients: new Counter({
      name: 'loragrad_gradients_total',
      help: 'Gradients computed',
      labelNames: ['method', 'below_threshold'] as const,
      registers,
    }),
    cancelled: new Counter({
      name: 'loragrad_cancelled_total',
      help: 'Computations given up before their end',
      labelNames: ['reason'] as const,
      registers,
    }),
  });

  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    const labels = { method: request.method, route, status: reply.statusCode };
    requests.observe(labels, reply.elapsedTime / 1000);
    if (reply.problem) problems.inc({ type: reply.problem.kind });
  });
}

export default fp(metrics, {
  name: 'metrics',
  dependencies: ['admission', 'problems', 'progress'],
});
