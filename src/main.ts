/** Start: configuration, worker threads, listen; on SIGTERM or SIGINT drain and end. */
import closeWithGrace from 'close-with-grace';
import { buildApp } from './app.js';
import { readConfig, unknownSettings } from './config.js';
import { usableCpus } from './pool/cpus.js';
import { WorkerPool } from './pool/worker-pool.js';

async function main(): Promise<void> {
  const config = readConfig(process.env);
  const workers = config.LORAGRAD_WORKERS || usableCpus();
  const executor = await WorkerPool.start({
    workers,
    warmUpMs: config.LORAGRAD_WARMUP_MS,
    revectorize: config.LORAGRAD_REVECTORIZE,
  });
  const app = await buildApp(config, executor);
  app.log.info({ workers, simd: executor.simd, node: process.version }, 'The workers are warm');
  for (const name of unknownSettings(process.env)) {
    app.log.warn(`${name} is not a setting of this service`);
  }

  closeWithGrace({ delay: config.LORAGRAD_DRAIN_MS, logger: app.log }, async ({ signal, err }) => {
    if (err) app.log.fatal(err, 'The process fails');
    else app.log.info(`${signal}: requests in flight are finished first`);
    await app.close();
    await executor.close();
  });
  await app.listen({ port: config.PORT, host: config.HOST });
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exit(1);
});
