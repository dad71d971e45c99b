/** The OpenAPI document and the page that explores it. */
import helmet from '@fastify/helmet';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { Problem } from '../../errors.js';
import { ForwardRequest, GradientRequest } from '../../request/request.js';
import type { Config } from '../../settings.js';
import { packageVersion } from '../../version.js';
import { GivenTensorSchema, TensorSchema } from '../../wire/schema.js';
import { docsTheme } from '../pages/docs-theme.js';
import { pageHeaders } from '../pages/page-headers.js';
import { serverUrl } from '../public-address.js';
import { ForwardAnswerSchema, GradientAnswerSchema, PlanAnswerSchema } from '../schemas/answers.js';
import { completeDocument, type Document } from '../schemas/document.js';
import { JobProgressSchema } from '../schemas/jobs.js';
import { ProblemSchema } from '../schemas/problem.js';
import { swaggerDocument } from '../schemas/swagger-document.js';
import { withoutKey } from './guards/clients.js';

const DESCRIPTION = `Gradients of LoRA adapters in attention layers, exact or approximate, with error bars
and the verdict of the efficiency threshold of [arXiv 2406.03136](https://arxiv.org/abs/2406.03136).

**Try it**: unfold an operation, press _Try it out_, choose an example and press _Execute_. The answer begins with
the verdict: \`method\`, \`reason\` and \`threshold\`.

**Shapes**: B batch items, Lq and Lk rows, H query heads, Hkv key/value heads of width d (values: dv), r the rank
of an adapter. Layout is that of PyTorch and PEFT: weight (out, in), lora_A (r, in), lora_B (out, r).

**Real tensors** travel as MessagePack (\`application/vnd.msgpack\`): the same maps, with \`data\` as bin in place of
base64. This page can send JSON only; the clients for Python and TypeScript send MessagePack.`;

const API_KEY = {
  type: 'http',
  scheme: 'bearer',
  description:
    'Where the operator has given out keys (LORAGRAD_API_KEYS), all but health needs one.',
} as const;

async function notInYaml(): Promise<never> {
  throw new Problem('not-found', 'The document is at /openapi.json, in JSON alone.');
}

async function docs(app: FastifyInstance, { config }: { config: Config }): Promise<void> {
  // Here, where the compilers of `validation` are known: schemas of a scope of its own would bring back Fastify's.
  for (const schema of [
    TensorSchema,
    GivenTensorSchema,
    GradientRequest,
    ForwardRequest,
    GradientAnswerSchema,
    ForwardAnswerSchema,
    PlanAnswerSchema,
    JobProgressSchema,
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
      // The operator says whether there are keys.
      security: [{}, { api_key: [] }],
      components: { securitySchemes: { api_key: API_KEY } },
      externalDocs: {
        description: 'The paper: Computational Limits of Low-Rank Adaptation',
        url: 'https://arxiv.org/abs/2406.03136',
      },
      // For the file in the repository. The document that is served names its own address.
      servers: [
        { url: 'http://127.0.0.1:3000', description: 'The service with its default settings' },
      ],
      tags: [
        { name: 'gradients', description: 'Gradients and plans' },
        { name: 'tensors', description: 'Tensors that the service keeps' },
        { name: 'service', description: 'Limits, health and metrics' },
      ],
    },
    transformObject: (document) => {
      if (!('openapiObject' in document)) return document.swaggerObject;
      completeDocument(document.openapiObject as Document);
      return document.openapiObject;
    },
    refResolver: {
      buildLocalReference: (json, _base, _fragment, i) => String(json.$id ?? `def-${i}`),
    },
  });
  if (!config.LORAGRAD_DOCS) return;
  await app.register(async (scope) => {
    scope.addHook('onRoute', withoutKey);
    scope.addHook('onRoute', (route) => {
      // To write it takes this thread 40 ms each time.
      if (route.url === '/docs/yaml') route.handler = notInYaml;
    });
    let document: Document | undefined;
    await scope.register(helmet, pageHeaders(config.LORAGRAD_TLS_CERT_FILE !== ''));
    await scope.register(swaggerUi, {
      routePrefix: '/docs',
      // Links to the files are relative: the page works below any path.
      indexPrefix: '.',
      theme: docsTheme(),
      transformSpecification: (whole, request) => {
        document ??= swaggerDocument(whole as Document);
        return {
          ...document,
          servers: [{ url: serverUrl(request, config.LORAGRAD_BASE_PATH, '..') }],
        };
      },
      transformSpecificationClone: false,
      uiConfig: {
        // Without the bar that asks for the address of another document.
        layout: 'BaseLayout',
        tryItOutEnabled: false,
        docExpansion: 'list',
        defaultModelsExpandDepth: 0,
      },
      // Unlike the default, without upgrade-insecure-requests: the service speaks plain HTTP.
      staticCSP: {
        'default-src': ["'self'"],
        'img-src': ["'self'", 'data:'],
        'style-src': ["'self'", "'unsafe-inline'"],
        'frame-ancestors': ["'self'"],
      },
    });
  });
}

export default fp(docs, { name: 'docs' });
