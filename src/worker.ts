/** loragrad worker: runs parts of large problems for the API nodes of the same queue; on SIGTERM it finishes those that it has. */
import { createServer, type Server } from 'node:http';
import { pino } from 'pino';
import { Gauge, Registry } from 'prom-client';
import { type AnyPart, jobOfPart } from '../workers/tasks/parts.js';
import { timely } from './cluster/connection.js';
import { PartWorker } from './cluster/part-worker.js';
import { poolOptions, queueOptions, readConfig } from './config.js';
import { endWithGrace } from './end.js';
import { loggerOptions } from './http/observability/logging.js';
import { WorkerPool } from './pool/worker-pool.js';
import { packageVersion } from './version.js';

function metricsOf(worker: PartWorker, pool: WorkerPool): Registry {
  const registry = new Registry();
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      ...{ name, help, registers: [registry] },
      collect() {
        this.set(read());
      },
    });
  gauge('loragrad_workers', 'Worker threads', () => pool.load().workers);
  gauge('loragrad_workers_busy', 'Worker threads that run a task', () => pool.load().busy);
  gauge(
    'loragrad_parts_running',
    'Parts that are fetched or computed',
    () => worker.figures().running,
  );
  gauge('loragrad_parts_done', 'Parts done since the start', () => worker.figures().parts);
  gauge('loragrad_parts_failed', 'Parts given up since the start', () => worker.figures().failures);
  gauge('loragrad_queue_sent_bytes', 'To the store', () => worker.figures().bytesSent);
  gauge('loragrad_queue_received_bytes', 'From the store', () => worker.figures().bytesReceived);
  gauge('loragrad_queue_round_trips', 'To the store', () => worker.figures().roundTrips);
  return registry;
}

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const queue = queueOptions(config);
  if (!queue) throw new Error('loragrad worker needs LORAGRAD_QUEUE_URL.');
  const { stream, ...logging } = await loggerOptions(config);
  const log = pino(logging, stream);
  let worker: PartWorker | undefined;
  let server: Server | undefined;
  endWithGrace(config.LORAGRAD_DRAIN_MS, async ({ signal, error }) => {
    if (error) log.fatal(error, 'The process fails');
    else log.info(`${signal}: the parts in hand are finished first`);
    server?.close();
    await worker?.close();
  });

  // Parts come with their plans: how fast this machine is need not be measured.
  const rates = { exact: 1, lowRank: 1 };
  const pool = await WorkerPool.start({ ...poolOptions(config), rates });
  worker = new PartWorker(pool, queue, (part) => jobOfPart(part as AnyPart));
  const registry = metricsOf(worker, pool);
  server = createServer(async ({ url }, response) => {
    if (url === '/metrics') {
      response.setHeader('content-type', registry.contentType);
      response.end(await registry.metrics());
    } else if (url === '/health/live' || url === '/health/ready') {
      response.statusCode = url === '/health/live' || worker?.healthy ? 200 : 503;
      response.end();
    } else response.writeHead(404).end();
  });
  server.listen(config.PORT, config.HOST);
  const ready = worker.ready();
  await timely(ready).catch(() => log.warn('The store does not answer: the worker waits for it'));
  await ready;
  const { kernels } = pool;
  log.info(
    { workers: pool.load().workers, kernels, version: packageVersion() },
    'The worker takes parts',
  );
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exit(1);
});
