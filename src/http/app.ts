/** The Fastify instance, built from plugins and routes; it does not listen yet. */
import { randomUUID } from 'node:crypto';
import Fastify, { type FastifyInstance } from 'fastify';
import { type Config, maxBodyBytes, maxInflightBytes, storeBytes } from '../config.js';
import type { Engine } from '../solver/engine.js';
import { TensorStore } from '../store/tensor-store.js';
import admission from './plugins/admission.js';
import answers from './plugins/answers.js';
import bodies from './plugins/bodies.js';
import cancellation from './plugins/cancellation.js';
import docs from './plugins/docs.js';
import draining from './plugins/draining.js';
import metrics from './plugins/metrics.js';
import problems from './plugins/problems.js';
import progress from './plugins/progress.js';
import storePlugin from './plugins/store.js';
import validation from './plugins/validation.js';
import forwardRoute from './routes/forward.js';
import gradientRoute from './routes/gradient.js';
import healthRoutes from './routes/health.js';
import limitsRoute from './routes/limits.js';
import metricsRoute from './routes/metrics.js';
import openapiRoute from './routes/openapi.js';
import type { RouteOptions } from './routes/options.js';
import planRoute from './routes/plan.js';
import tensorsRoute from './routes/tensors.js';

export async function buildApp(config: Config, engine: Engine): Promise<FastifyInstance> {
  const app = Fastify({
    logger: { level: config.LOG_LEVEL },
    genReqId: () => randomUUID(),
    bodyLimit: maxBodyBytes(config),
    requestTimeout: config.LORAGRAD_BODY_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    return503OnClosing: false,
  });

  await app.register(problems);
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
  await app.register(docs);

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
  await app.register(openapiRoute);
  return app;
}
