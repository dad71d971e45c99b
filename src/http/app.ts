/** The Fastify instance, built from plugins and routes; it does not listen yet. */
import cors, { type FastifyCorsOptions } from '@fastify/cors';
import Fastify, { type FastifyInstance, LogController } from 'fastify';
import { type Config, maxBodyBytes, maxInflightBytes, storeBytes } from '../config.js';
import { toProblem } from '../errors.js';
import type { Engine } from '../solver/engine.js';
import { TensorStore } from '../store/tensor-store.js';
import { clientErrorHandler } from './broken-requests.js';
import { loggerOptions } from './logging.js';
import accounting, { watchAnswer } from './plugins/accounting.js';
import admission from './plugins/admission.js';
import answers from './plugins/answers.js';
import bodies from './plugins/bodies.js';
import cancellation from './plugins/cancellation.js';
import contentCodings from './plugins/content-codings.js';
import docs from './plugins/docs.js';
import draining from './plugins/draining.js';
import expectations from './plugins/expectations.js';
import metrics from './plugins/metrics.js';
import problems, { answerProblem } from './plugins/problems.js';
import progress from './plugins/progress.js';
import storePlugin from './plugins/store.js';
import validation from './plugins/validation.js';
import { withoutBasePath } from './public-address.js';
import { REQUEST_ID_HEADER, requestId } from './request-id.js';
import forwardRoute from './routes/forward.js';
import gradientRoute from './routes/gradient.js';
import healthRoutes from './routes/health.js';
import limitsRoute from './routes/limits.js';
import metricsRoute from './routes/metrics.js';
import openapiRoute from './routes/openapi.js';
import type { RouteOptions } from './routes/options.js';
import planRoute from './routes/plan.js';
import siteRoutes from './routes/site.js';
import tensorsRoute from './routes/tensors.js';

export async function buildApp(config: Config, engine: Engine): Promise<FastifyInstance> {
  const app = Fastify({
    logger: loggerOptions(config),
    // plugins/accounting.ts writes one line of its own.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestId,
    rewriteUrl: ({ url = '/' }) => withoutBasePath(url, config.LORAGRAD_BASE_PATH),
    bodyLimit: maxBodyBytes(config),
    requestTimeout: config.LORAGRAD_BODY_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    // Node's own answer would be no problem; see plugins/problems.ts.
    http: { requireHostHeader: false },
    clientErrorHandler,
    frameworkErrors: (error, request, reply) => {
      watchAnswer(app, request, reply);
      answerProblem(toProblem(error), request, reply.header(REQUEST_ID_HEADER, request.id));
    },
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header(REQUEST_ID_HEADER, request.id);
  });

  await app.register(accounting);
  if (config.LORAGRAD_CORS_ORIGINS) await app.register(cors, corsOptions(config));
  await app.register(problems);
  await app.register(expectations);
  await app.register(contentCodings);
  await app.register(draining);
  await app.register(validation);
  await app.register(admission, {
    maxRequests: config.LORAGRAD_MAX_REQUESTS,
    maxInflightBytes: maxInflightBytes(config),
  });
  await app.register(cancellation, { deadlineMs: config.LORAGRAD_DEADLINE_MS });
  await app.register(progress);
  await app.register(metrics, { engine });
  await app.register(bodies, {
    maxBodyBytes: maxBodyBytes(config),
    maxJsonBytes: config.LORAGRAD_MAX_JSON_BYTES,
  });
  await app.register(answers);
  await app.register(docs, { config });

  const store = new TensorStore(storeBytes(config));
  await app.register(storePlugin, { store });
  const options: RouteOptions = { engine, config, store };
  await app.register(gradientRoute, options);
  await app.register(forwardRoute, options);
  await app.register(planRoute, options);
  await app.register(tensorsRoute, options);
  await app.register(limitsRoute, options);
  await app.register(healthRoutes);
  await app.register(metricsRoute);
  await app.register(openapiRoute, options);
  await app.register(siteRoutes);
  return app;
}

/** What a page from elsewhere may send, and may see of the answer. */
function corsOptions({ LORAGRAD_CORS_ORIGINS }: Config): FastifyCorsOptions {
  const origins = LORAGRAD_CORS_ORIGINS.split(',').map((origin) => origin.trim());
  return {
    origin: origins.includes('*') ? '*' : origins,
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'],
    exposedHeaders: [REQUEST_ID_HEADER, 'retry-after', 'server-timing', 'allow'],
    maxAge: 86_400,
  };
}
