/** The Fastify instance, built from plugins and routes; it does not listen yet. */
import type { Server as HttpsServer } from 'node:https';
import cors, { type FastifyCorsOptions } from '@fastify/cors';
import Fastify, { type FastifyInstance, LogController } from 'fastify';
import { keepBytes } from '../../workers/tensor/shared-memory.js';
import {
  computeBytes,
  keptBytes,
  maxBodyBytes,
  maxInflightBytes,
  paceOf,
  queueOptions,
  storeBytes,
} from '../config.js';
import type { Engine } from '../engine/engine.js';
import { toProblem } from '../errors.js';
import type { Config } from '../settings.js';
import { KnownTensors } from '../store/known-tensors.js';
import { ApiKeys } from './access/api-keys.js';
import { readTls, renewTls, type TlsFiles } from './access/tls.js';
import { clientErrorHandler } from './broken-requests.js';
import { loggerOptions } from './observability/logging.js';
import accounting, { watchAnswer } from './plugins/accounting.js';
import answers from './plugins/answers.js';
import contentCodings from './plugins/content-codings.js';
import docs from './plugins/docs.js';
import admission from './plugins/guards/admission.js';
import bodies from './plugins/guards/bodies.js';
import cancellation from './plugins/guards/cancellation.js';
import clients from './plugins/guards/clients.js';
import draining from './plugins/guards/draining.js';
import expectations from './plugins/guards/expectations.js';
import heads from './plugins/guards/heads.js';
import lifetime from './plugins/guards/lifetime.js';
import quarantine from './plugins/guards/quarantine.js';
import jobs from './plugins/jobs.js';
import metrics from './plugins/metrics.js';
import pages from './plugins/pages.js';
import problems, { answerProblem } from './plugins/problems.js';
import progress from './plugins/progress.js';
import storePlugin from './plugins/store.js';
import tracing from './plugins/tracing.js';
import validation from './plugins/validation.js';
import { withoutBasePath } from './public-address.js';
import { REQUEST_ID_HEADER, requestId } from './request-id.js';
import forwardRoute from './routes/forward.js';
import gradientRoute from './routes/gradient.js';
import healthRoutes from './routes/health.js';
import jobsRoute from './routes/jobs.js';
import limitsRoute from './routes/limits.js';
import metricsRoute from './routes/metrics.js';
import openapiRoute from './routes/openapi.js';
import { operatorPort } from './routes/operator-port.js';
import planRoute from './routes/plan.js';
import type { RouteOptions } from './routes/shared/options.js';
import siteRoutes from './routes/site.js';
import tensorsRoute from './routes/tensors.js';

export async function buildApp(config: Config, engine: Engine): Promise<FastifyInstance> {
  const pace = paceOf(config);
  const tls = tlsFiles(config);
  const app = Fastify({
    logger: await loggerOptions(config),
    // plugins/accounting.ts writes one line of its own.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestId,
    rewriteUrl: ({ url = '/' }) => withoutBasePath(url, config.LORAGRAD_BASE_PATH),
    bodyLimit: maxBodyBytes(config),
    requestTimeout: config.LORAGRAD_BODY_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    // Node's own answer would be no problem; see plugins/problems.ts.
    ...(tls
      ? { https: { ...readTls(tls), requireHostHeader: false } as object }
      : { http: { requireHostHeader: false } }),
    clientErrorHandler,
    frameworkErrors: (error, request, reply) => {
      watchAnswer(app, request, reply);
      answerProblem(toProblem(error), request, reply.header(REQUEST_ID_HEADER, request.id));
    },
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header(REQUEST_ID_HEADER, request.id);
  });

  await app.register(lifetime);
  await app.register(accounting);
  await app.register(tracing, { endpoint: config.OTEL_EXPORTER_OTLP_ENDPOINT });
  if (config.LORAGRAD_CORS_ORIGINS) await app.register(cors, corsOptions(config));
  if (tls) {
    const failed = (error: unknown) => app.log.error(error, 'The certificate was not renewed');
    renewTls(app.server as unknown as HttpsServer, tls, failed);
  }
  await app.register(problems);
  await app.register(expectations);
  await app.register(contentCodings);
  await app.register(draining);
  await app.register(validation);
  await app.register(clients, {
    keys: new ApiKeys(config.LORAGRAD_API_KEYS, config.LORAGRAD_API_KEYS_FILE, (error) =>
      app.log.error(error, 'The file of keys is of no use: the keys of before hold'),
    ),
    hosts: listOf(config.LORAGRAD_HOSTS),
  });
  await app.register(admission, {
    maxRequests: config.LORAGRAD_MAX_REQUESTS,
    maxInflightBytes: maxInflightBytes(config),
    maxComputeBytes: computeBytes(config),
    maxComputeSeconds: config.LORAGRAD_MAX_COMPUTE_SECONDS,
    maxJsonBytes: config.LORAGRAD_MAX_JSON_BYTES,
    maxWaitSeconds: config.LORAGRAD_DEADLINE_MS / 1000,
    workers: engine.load().workers || 1,
  });
  await app.register(jobs, {
    maxJobs: config.LORAGRAD_MAX_JOBS,
    ttlMs: config.LORAGRAD_JOB_TTL_MS,
    queueUrl: config.LORAGRAD_QUEUE_URL || null,
  });
  await app.register(cancellation, {
    deadlineMs: config.LORAGRAD_DEADLINE_MS,
    jobDeadlineMs: config.LORAGRAD_JOB_DEADLINE_MS,
  });
  await app.register(progress);
  await app.register(metrics, { engine });
  await app.register(heads);
  keepBytes(keptBytes(config));
  await app.register(bodies, {
    maxBodyBytes: maxBodyBytes(config),
    maxJsonBytes: config.LORAGRAD_MAX_JSON_BYTES,
    pace,
  });
  await app.register(quarantine);
  await app.register(answers, { pace });
  await app.register(docs, { config });
  if (config.LORAGRAD_DOCS) await app.register(pages, { secure: tls !== null });

  const store = await KnownTensors.open(storeBytes(config), queueOptions(config));
  await app.register(storePlugin, { store });
  const options: RouteOptions = { engine, config, store };
  await app.register(gradientRoute, options);
  await app.register(forwardRoute, options);
  await app.register(planRoute, options);
  await app.register(tensorsRoute, options);
  await app.register(jobsRoute);
  await app.register(limitsRoute, options);
  await app.register(healthRoutes, options);
  const metricsAt = { host: config.HOST, port: config.LORAGRAD_METRICS_PORT };
  if (metricsAt.port === 0) await app.register(metricsRoute);
  else operatorPort(app, options, metricsAt);
  if (config.LORAGRAD_DOCS) await app.register(openapiRoute, options);
  await app.register(siteRoutes);
  return app;
}

const listOf = (text: string): string[] =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');

function tlsFiles(config: Config): TlsFiles | null {
  const [cert, key] = [config.LORAGRAD_TLS_CERT_FILE, config.LORAGRAD_TLS_KEY_FILE];
  if ((cert === '') !== (key === '')) {
    throw new Error('LORAGRAD_TLS_CERT_FILE and LORAGRAD_TLS_KEY_FILE go together.');
  }
  return cert === '' ? null : { cert, key };
}

/** What a page from elsewhere may send, and may see of the answer. */
function corsOptions({ LORAGRAD_CORS_ORIGINS }: Config): FastifyCorsOptions {
  const origins = LORAGRAD_CORS_ORIGINS.split(',').map((origin) => origin.trim());
  return {
    origin: origins.includes('*') ? '*' : origins,
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'],
    exposedHeaders: [
      REQUEST_ID_HEADER,
      'retry-after',
      'server-timing',
      'traceparent',
      'allow',
      'location',
    ],
    maxAge: 86_400,
  };
}
