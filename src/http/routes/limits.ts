/** GET /limits: every limit that a request can hit, as numbers. */
import type { FastifyInstance } from 'fastify';
import type { Static } from 'typebox';
import { computeBytes, maxBodyBytes, maxInflightBytes, storeBytes } from '../../config.js';
import { MAX_HEADS } from '../../engine/price/price.js';
import { MAX_FEATURES } from '../../request/request.js';
import { MAX_LOW_RANK_HEADS, MAX_LOW_RANK_WIDTH } from '../../solver/choose-low-rank.js';
import { DEFAULT_WIRE_LIMITS, MAX_DIMENSIONS } from '../../wire/tree/wire-limits.js';
import { LimitsSchema } from '../schemas/limits.js';
import type { RouteOptions } from './shared/options.js';

export default async function limits(app: FastifyInstance, options: RouteOptions): Promise<void> {
  const { config, engine } = options;
  const answer: Static<typeof LimitsSchema> = {
    kernels: engine.kernels,
    max_body_bytes: maxBodyBytes(config),
    max_json_body_bytes: config.LORAGRAD_MAX_JSON_BYTES,
    max_requests: config.LORAGRAD_MAX_REQUESTS,
    max_inflight_bytes: maxInflightBytes(config),
    max_compute_bytes: computeBytes(config),
    max_compute_seconds: config.LORAGRAD_MAX_COMPUTE_SECONDS,
    max_heads: MAX_HEADS,
    max_low_rank_heads: MAX_LOW_RANK_HEADS,
    min_bytes_per_second: config.LORAGRAD_MIN_RATE,
    patience_ms: config.LORAGRAD_PATIENCE_MS,
    deadline_ms: config.LORAGRAD_DEADLINE_MS,
    job_deadline_ms: config.LORAGRAD_JOB_DEADLINE_MS,
    job_ttl_ms: config.LORAGRAD_JOB_TTL_MS,
    max_jobs: config.LORAGRAD_MAX_JOBS,
    body_timeout_ms: config.LORAGRAD_BODY_TIMEOUT_MS,
    max_store_bytes: storeBytes(config),
    max_depth: DEFAULT_WIRE_LIMITS.maxDepth,
    max_keys: DEFAULT_WIRE_LIMITS.maxKeys,
    max_elements: DEFAULT_WIRE_LIMITS.maxElements,
    max_arrays: DEFAULT_WIRE_LIMITS.maxArrays,
    max_tensors: DEFAULT_WIRE_LIMITS.maxTensors,
    max_key_bytes: DEFAULT_WIRE_LIMITS.maxKeyBytes,
    max_string_bytes: DEFAULT_WIRE_LIMITS.maxStringBytes,
    max_features: MAX_FEATURES,
    max_low_rank_width: MAX_LOW_RANK_WIDTH,
    max_dimensions: MAX_DIMENSIONS,
  };
  app.get('/limits', {
    schema: {
      operationId: 'limits',
      summary: 'Every limit that a request can hit',
      description:
        'They follow from the settings and from the memory of the machine, and stay as they are while the service runs.',
      tags: ['service'],
      response: { 200: LimitsSchema },
    },
    handler: async () => answer,
  });
}
