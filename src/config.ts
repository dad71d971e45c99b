/** The settings of a process, read from its environment, and what follows from them. */
import { Ajv } from 'ajv';
import { AJV_OPTIONS } from './ajv.js';
import { usableCpus, usableMemory } from './machine/resources.js';
import { allowedValues, type Config, ConfigSchema, SETTINGS } from './settings.js';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

/** Variables are texts, and most of them are of others. */
const ajv = new Ajv({
  ...AJV_OPTIONS,
  coerceTypes: true,
  useDefaults: true,
  removeAdditional: true,
});

/** @throws {Error} with a line for each variable whose value is not valid. */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  const config: Record<string, unknown> = { ...env };
  if (ajv.validate({ ...ConfigSchema, additionalProperties: false }, config))
    return config as Config;
  const wrong = new Set(ajv.errors!.map(({ instancePath }) => instancePath.slice(1)));
  const lines = SETTINGS.filter(([name]) => wrong.has(name)).map(([name, setting]) => {
    const value = setting.writeOnly ? 'The value' : `"${env[name]?.slice(0, 60)}"`;
    return `${name}: ${value} is not valid; it takes ${allowedValues(setting)} (default: ${setting.default}).`;
  });
  throw new Error(lines.join('\n'));
}

/**
 * Variables that look like settings but are none: probably misspelt. Only worth a warning, since
 * Kubernetes sets LORAGRAD_SERVICE_HOST and the like for a service of that name.
 */
export function unknownSettings(env: NodeJS.ProcessEnv): string[] {
  return Object.keys(env).filter(
    (name) => name.startsWith('LORAGRAD_') && !Object.hasOwn(ConfigSchema.properties, name),
  );
}

/** The limit on bytes in flight that is in force. */
export function maxInflightBytes(config: Config): number {
  return config.LORAGRAD_MAX_INFLIGHT_BYTES || Math.floor(usableMemory() / 16);
}

/** Memory that each of the two threads which hand it out keeps for the next work, until it rests: half of what may be in flight. */
export function keptBytes(config: Config): number {
  return Math.floor(maxInflightBytes(config) / 2);
}

/** Memory for what is computed at the same time. */
export function computeBytes(config: Config): number {
  return config.LORAGRAD_COMPUTE_BYTES || Math.floor((usableMemory() * 3) / 8);
}

/** The worker threads; their heaps together take an eighth of the memory. */
export function poolOptions(config: Config) {
  const workers = config.LORAGRAD_WORKERS || usableCpus();
  const heapMiB = Math.floor(usableMemory() / 8 / MIB / (workers + 1));
  return {
    workers,
    warmUpMs: config.LORAGRAD_WARMUP_MS,
    kernels: config.LORAGRAD_KERNELS,
    hungMs: config.LORAGRAD_HUNG_MS,
    heapMiB: Math.min(4096, Math.max(256, heapMiB)),
    keptBytes: keptBytes(config),
  };
}

/** Where the queue is. */
export interface QueueOptions {
  /** redis:// or, with TLS, rediss://; may hold user and password. */
  readonly url: string;
  /** How long tensors and results are kept in the store after their last use, ms. */
  readonly ttlMs: number;
  /** Tensors that a node keeps in its own memory, bytes. */
  readonly cacheBytes: number;
}

/** null: there is none. */
export function queueOptions(config: Config): QueueOptions | null {
  const { LORAGRAD_QUEUE_URL: url, LORAGRAD_QUEUE_TTL_MS: ttlMs } = config;
  return url === '' ? null : { url, ttlMs, cacheBytes: storeBytes(config) };
}

/** How fast bodies have to come and answers have to be read. */
export function paceOf(config: Config): { minBytesPerSecond: number; patienceMs: number } {
  return { minBytesPerSecond: config.LORAGRAD_MIN_RATE, patienceMs: config.LORAGRAD_PATIENCE_MS };
}

/** Memory for the tensors that are kept. */
export function storeBytes(config: Config): number {
  return config.LORAGRAD_STORE_BYTES || Math.min(GIB, Math.floor(usableMemory() / 8));
}

/** The largest MessagePack body: what is allowed in flight is allowed at most. */
export function maxBodyBytes(config: Config): number {
  return Math.min(config.LORAGRAD_MAX_BODY_BYTES, maxInflightBytes(config));
}
