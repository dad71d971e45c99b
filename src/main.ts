/** Start: configuration, worker threads, listen; on SIGTERM or SIGINT drain and end. */
import { setTimeout as pause } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import {
  maxInflightBytes,
  poolOptions,
  queueOptions,
  readConfig,
  unknownSettings,
} from './config.js';
import { endWithGrace } from './end.js';
import { ThreadedEngine } from './engine/engine.js';
import { requireAddress, startError } from './start-error.js';
import { packageVersion } from './version.js';

/** After the drain: time for the cancelled requests to get their 503. */
const LAST_WORDS_MS = 2000;
/** Time to close: connections whose clients send no more of their heads, a collector or a store that does not answer. */
const CLOSE_MS = 1000;

/**
 * Connections that may wait to be taken up; the system may allow fewer. Beyond them it keeps none in mind, and resets
 * some that their clients think they have.
 */
const BACKLOG = 2 ** 16 - 1;

async function main(): Promise<void> {
  const config = readConfig(process.env);
  let app: FastifyInstance | undefined;
  let engine: ThreadedEngine | undefined;

  // Before anything else: process 1 of a container ignores signals without a listener.
  const delay =
    config.LORAGRAD_LAME_DUCK_MS + config.LORAGRAD_DRAIN_MS + 2 * LAST_WORDS_MS + CLOSE_MS;
  endWithGrace(delay, async ({ signal, error }) => {
    if (error) app?.log.fatal(error, 'The process fails');
    else app?.log.info(`${signal}: requests in flight are finished first`);
    // Ctrl-C: there is no load balancer that has to see it first.
    const lameDuckMs = signal === 'SIGTERM' ? config.LORAGRAD_LAME_DUCK_MS : 0;
    await app?.drain({ lameDuckMs, drainMs: config.LORAGRAD_DRAIN_MS, lastWordsMs: LAST_WORDS_MS });
    await inTime(app?.close());
    await inTime(engine?.close());
  });

  await requireAddress(config);
  const [started, { buildApp }] = await Promise.all([
    ThreadedEngine.start(poolOptions(config), queueOptions(config)),
    // The threads of the engine need no more of this one than their beginning.
    import('./http/app.js'),
  ]);
  engine = started;
  app = await buildApp(config, engine);
  const { kernels, rates } = engine;
  const gflops = rates.exact / 1e9;
  const inflightBytes = maxInflightBytes(config);
  app.log.info(
    { workers: engine.load().workers, kernels, gflops, inflightBytes, node: process.version },
    'The workers are warm',
  );
  for (const name of unknownSettings(process.env)) {
    app.log.warn(`${name} is not a setting of this service`);
  }
  const listenTextResolver = (address: string) =>
    `loragrad ${packageVersion()} listens: page ${address}/, API ${address}/docs`;
  await app
    .listen({ port: config.PORT, host: config.HOST, backlog: BACKLOG, listenTextResolver })
    .catch((error: Error) => {
      throw startError(error, config);
    });
}

function inTime(closed: Promise<void> | undefined): Promise<void> {
  return Promise.race([closed, pause(CLOSE_MS)]);
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exit(1);
});
