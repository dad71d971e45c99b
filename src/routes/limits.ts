/** GET /limits: every limit that a request can hit, as numbers. */
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { maxBodyBytes, maxInflightBytes } from '../config.js';
import { MAX_FEATURES } from '../lora/request.js';
import { DEFAULT_WIRE_LIMITS, MAX_DIMENSIONS } from '../tensor/wire-limits.js';
import type { RouteOptions } from './options.js';

const limit = (description: string) => Type.Integer({ description });

const Limits = Type.Object(
  {
    max_body_bytes: limit('Largest MessagePack body, bytes.'),
    max_json_body_bytes: limit('Largest JSON body, bytes.'),
    max_requests: limit('Requests with a body in the house at once; more get 429.'),
    max_inflight_bytes: limit('Sum of the sizes of their bodies, bytes; more get 429.'),
    deadline_ms: limit('Longest time from the head of a request to its answer, ms.'),
    body_timeout_ms: limit('Longest time for a request to arrive whole, ms.'),
    max_depth: limit('Maps and arrays inside each other.'),
    max_keys: limit(
      'Keys of all maps of a body together; also maps, and entries of lists without numbers.',
    ),
    max_elements: limit('Elements of all arrays of a body together (nested lists).'),
    max_arrays: limit('Arrays in a body: the rows of nested lists.'),
    max_tensors: limit('Tensors in a body.'),
    max_key_bytes: limit('Bytes of one key.'),
    max_string_bytes: limit('Bytes of one string other than base64 data.'),
    max_features: limit('Features of the low-rank kernel.'),
    max_dimensions: limit('Dimensions of a tensor.'),
  },
  { $id: 'Limits', description: 'Every limit that a request can hit.' },
);

export default async function limits(app: FastifyInstance, options: RouteOptions): Promise<void> {
  const { config } = options;
  const answer: Type.Static<typeof Limits> = {
    max_body_bytes: maxBodyBytes(config),
    max_json_body_bytes: config.LORAGRAD_MAX_JSON_BYTES,
    max_requests: config.LORAGRAD_MAX_REQUESTS,
    max_inflight_bytes: maxInflightBytes(config),
    deadline_ms: config.LORAGRAD_DEADLINE_MS,
    body_timeout_ms: config.LORAGRAD_BODY_TIMEOUT_MS,
    max_depth: DEFAULT_WIRE_LIMITS.maxDepth,
    max_keys: DEFAULT_WIRE_LIMITS.maxKeys,
    max_elements: DEFAULT_WIRE_LIMITS.maxElements,
    max_arrays: DEFAULT_WIRE_LIMITS.maxArrays,
    max_tensors: DEFAULT_WIRE_LIMITS.maxTensors,
    max_key_bytes: DEFAULT_WIRE_LIMITS.maxKeyBytes,
    max_string_bytes: DEFAULT_WIRE_LIMITS.maxStringBytes,
    max_features: MAX_FEATURES,
    max_dimensions: MAX_DIMENSIONS,
  };
  app.get('/limits', {
    schema: {
      operationId: 'limits',
      summary: 'Every limit that a request can hit',
      tags: ['service'],
      response: { 200: Limits },
    },
    handler: async () => answer,
  });
}
