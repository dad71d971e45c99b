/** The OpenAPI document and the page that explores it. */
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { ForwardRequest, GradientRequest } from '../../request/request.js';
import { packageVersion } from '../../version.js';
import { GivenTensorSchema, TensorSchema } from '../../wire/schema.js';
import { ForwardAnswerSchema, GradientAnswerSchema, PlanAnswerSchema } from '../schemas/answers.js';
import { ProblemSchema } from '../schemas/problem.js';

const DESCRIPTION = `Gradients of LoRA adapters in attention layers, exact or approximate, with error
bounds and the efficiency-threshold verdict of arXiv 2406.03136.

B batch items, Lq and Lk rows, H query heads, Hkv key/value heads of width d (values: dv), r the rank
of an adapter. Layout is that of PyTorch and PEFT: weight (out, in), lora_A (r, in), lora_B (out, r).`;

async function docs(app: FastifyInstance): Promise<void> {
  for (const schema of [
    TensorSchema,
    GivenTensorSchema,
    GradientRequest,
    ForwardRequest,
    GradientAnswerSchema,
    ForwardAnswerSchema,
    PlanAnswerSchema,
    ProblemSchema,
  ]) {
    app.addSchema(schema);
  }
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'loragrad',
        version: packageVersion(),
        description: DESCRIPTION,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      // Relative: the page works behind any host, port and proxy.
      servers: [{ url: '/' }],
      tags: [
        { name: 'gradients', description: 'Gradients and plans' },
        { name: 'tensors', description: 'Tensors that the service keeps' },
        { name: 'service', description: 'Limits, health and metrics' },
      ],
    },
    refResolver: {
      buildLocalReference: (json, _base, _fragment, i) => String(json.$id ?? `def-${i}`),
    },
  });
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    uiConfig: { tryItOutEnabled: false, docExpansion: 'list', defaultModelsExpandDepth: 0 },
    // Unlike the default, without upgrade-insecure-requests: the service speaks plain HTTP.
    staticCSP: {
      'default-src': ["'self'"],
      'img-src': ["'self'", 'data:'],
      'style-src': ["'self'", "'unsafe-inline'"],
      'frame-ancestors': ["'self'"],
    },
  });
}

export default fp(docs, { name: 'docs' });
