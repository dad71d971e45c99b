/** What an operator sees at GET /metrics, for Prometheus. */
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Engine } from '../../engine/engine.js';
import type { Verdict } from '../../engine/messages.js';
import type { WorkKind } from '../../engine/work.js';
import { packageVersion } from '../../version.js';
import { answerMetrics } from '../observability/answer-metrics.js';
import { queueMetrics } from '../observability/queue-metrics.js';

const SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];

interface ServiceMetrics {
  readonly registry: Registry;
  /** Time of a request from its head to the end of its answer. */
  readonly requests: Histogram<'method' | 'route' | 'status'>;
  /** Requests that ended with a problem, those whose client has gone among them. */
  readonly problems: Counter<'type'>;
  /** Tasks that workers have finished, by stage. */
  readonly tasks: Counter<'stage'>;
  /** Seconds in each phase of a request: queue, decode, plan, compute, encode. */
  readonly phase: Histogram<'phase'>;
  /** Computations that were given up: client-gone or deadline-exceeded. */
  readonly cancelled: Counter<'reason'>;
  /** Books the method, the verdict and the errors of an answer. */
  observeAnswer(kind: WorkKind, verdict: Verdict): void;
}

declare module 'fastify' {
  interface FastifyInstance {
    metrics: ServiceMetrics;
  }
}

async function metrics(app: FastifyInstance, options: { engine: Engine }): Promise<void> {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  // Gauges with the names of counters; those of their kinds stay.
  for (const kind of ['handles', 'requests', 'resources']) {
    registry.removeSingleMetric(`nodejs_active_${kind}_total`);
  }

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
  new Counter({
    name: 'loragrad_worker_restarts_total',
    help: 'Worker threads that ended or hung and were replaced',
    registers,
    collect() {
      this.reset();
      this.inc(engine.load().restarts);
    },
  });
  gauge('loragrad_jobs', 'Jobs running or waiting', () => engine.load().jobs);
  gauge(
    'loragrad_kept_jobs',
    'Requests with respond-async, until their answers are fetched',
    () => app.jobs.count,
  );
  gauge('loragrad_tasks_waiting', 'Tasks waiting for a worker', () => engine.load().waiting);
  gauge('loragrad_inflight_requests', 'Requests admitted', () => app.admitted().requests);
  gauge(
    'loragrad_inflight_bytes',
    'Bytes of bodies that have arrived, of tensors that they refer to, of answers not yet read',
    () => app.admitted().bytes,
  );
  gauge(
    'loragrad_compute_bytes',
    'Memory that running computations may take, as their shapes predict',
    () => app.admitted().computeBytes,
  );
  gauge(
    'loragrad_waiting_requests',
    'Requests that wait for memory or for a place',
    () => app.admitted().waiting,
  );
  gauge(
    'loragrad_backlog_seconds',
    'Time until what is accepted is done, as predicted',
    () => app.admitted().backlog,
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
    name: 'loragrad_memory_bytes',
    help: 'Memory of the process by kind: heap, buffers outside it (bodies and tensors), and all that is resident',
    labelNames: ['kind'] as const,
    registers,
    collect() {
      const { heapUsed, external, rss } = process.memoryUsage();
      this.set({ kind: 'heap' }, heapUsed);
      this.set({ kind: 'external' }, external);
      this.set({ kind: 'resident' }, rss);
    },
  });
  new Gauge({
    name: 'loragrad_build_info',
    help: 'Always 1; the labels say which version of the service runs on which Node',
    labelNames: ['version', 'node'] as const,
    registers,
  }).set({ version: packageVersion(), node: process.version }, 1);
  new Gauge({
    name: 'loragrad_kernel_info',
    help: 'Always 1; the label says which build of the inner loops is in use',
    labelNames: ['kernels'] as const,
    registers,
  }).set({ kernels: engine.kernels }, 1);

  queueMetrics(registry, () => engine.queue());

  app.decorate('metrics', {
    registry,
    requests: new Histogram({
      name: 'loragrad_http_request_duration_seconds',
      help: 'Time from the head of a request to the end of its answer',
      labelNames: ['method', 'route', 'status'] as const,
      buckets: SECONDS,
      registers,
    }),
    problems: new Counter({
      name: 'loragrad_problems_total',
      help: 'Requests that ended with a problem, by its type; client-gone: without an answer',
      labelNames: ['type'] as const,
      registers,
    }),
    observeAnswer: answerMetrics(registers),
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
    cancelled: new Counter({
      name: 'loragrad_cancelled_total',
      help: 'Computations given up before their end',
      labelNames: ['reason'] as const,
      registers,
    }),
  });
}

export default fp(metrics, {
  name: 'metrics',
  dependencies: ['admission', 'jobs', 'problems', 'progress'],
});
