/** Every setting, its default and its environment variable. The README's table is made of this. */
import envSchema from 'env-schema';
import Type, { type Static } from 'typebox';
import { KERNEL_CHOICES } from '../workers/kernels/inner/load.js';
import { usableMemory } from './machine/resources.js';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

export const ConfigSchema = Type.Object({
  PORT: Type.Integer({
    default: 3000,
    minimum: 0,
    maximum: 65535,
    description: 'TCP port; 0 takes a free one',
  }),
  HOST: Type.String({
    default: '127.0.0.1',
    description: 'Address to listen on; the container image sets 0.0.0.0',
  }),
  LOG_LEVEL: Type.Enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], {
    default: 'info',
    description: 'Least severe level that is logged',
  }),
  LORAGRAD_WORKERS: Type.Integer({
    default: 0,
    minimum: 0,
    maximum: 256,
    description:
      'Worker threads; 0 means one for each CPU that the process may use (cgroup quota included)',
  }),
  LORAGRAD_KERNELS: Type.Enum([...KERNEL_CHOICES], {
    default: 'auto',
    description:
      'Build of the inner loops: the fastest that computes correctly (auto), native code or nothing (native, avx2), WebAssembly (wasm)',
  }),
  LORAGRAD_MAX_BODY_BYTES: Type.Integer({
    default: GIB,
    minimum: 1024,
    maximum: 4 * GIB,
    description: 'Largest MessagePack body, bytes; never more than may be in flight',
  }),
  LORAGRAD_MAX_JSON_BYTES: Type.Integer({
    default: MIB,
    minimum: 1024,
    maximum: 64 * MIB,
    description: 'Largest JSON body, bytes',
  }),
  LORAGRAD_MAX_REQUESTS: Type.Integer({
    default: 64,
    minimum: 1,
    maximum: 100_000,
    description:
      'Requests with a body that may be in the house at once, running or waiting; more get 429',
  }),
  LORAGRAD_MAX_INFLIGHT_BYTES: Type.Integer({
    default: 0,
    minimum: 0,
    description:
      'Sum of the body sizes of those requests, tensors that they refer to included; more get 429. 0 means a sixteenth of the memory that the process may use (cgroup limit included)',
  }),
  LORAGRAD_STORE_BYTES: Type.Integer({
    default: 0,
    minimum: 0,
    description:
      'Memory for the tensors that PUT /tensors keeps, bytes; the least recently used make room. 0 means 1 GiB, or an eighth of the memory that the process may use if that is less',
  }),
  LORAGRAD_DEADLINE_MS: Type.Integer({
    default: 600_000,
    minimum: 1,
    maximum: 2 ** 31 - 1,
    description:
      'Longest time from the head of a request to its answer, ms; then the work is stopped and 504 answered',
  }),
  LORAGRAD_BODY_TIMEOUT_MS: Type.Integer({
    default: 300_000,
    minimum: 1,
    maximum: 2 ** 31 - 1,
    description:
      'Longest time for a request to arrive whole, ms; then the connection is closed with 408',
  }),
  LORAGRAD_DRAIN_MS: Type.Integer({
    default: 30_000,
    minimum: 1,
    maximum: 2 ** 31 - 1,
    description:
      'Longest time for requests in flight to finish after SIGTERM, ms; then the process ends',
  }),
  LORAGRAD_WARMUP_MS: Type.Integer({
    default: 30_000,
    minimum: 1,
    maximum: 2 ** 31 - 1,
    description: 'Longest time for every worker to run its warm-up task, ms; then start fails',
  }),
  LORAGRAD_BASE_PATH: Type.String({
    default: '',
    pattern: '^(/[A-Za-z0-9._~-]+)*$',
    description:
      'Path below which a proxy publishes the service (/loragrad), for the address in its documentation; requests with and without it are taken. The header X-Forwarded-Prefix has precedence',
  }),
  LORAGRAD_CORS_ORIGINS: Type.String({
    default: '',
    description:
      'Origins whose pages may call the service, separated by commas (https://example.org), or *; empty: none but its own',
  }),
});

export type Config = Static<typeof ConfigSchema>;

export interface Setting {
  readonly type?: string;
  readonly default: unknown;
  readonly description: string;
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  /** It must not be shown. */
  readonly writeOnly?: boolean;
}

/** Every setting by its name, in the order of the documentation. */
export const SETTINGS: readonly (readonly [string, Setting])[] = Object.entries(
  ConfigSchema.properties as unknown as Record<string, Setting>,
);

/** Which values a setting takes, in words. */
export function allowedValues({ type, enum: values, pattern, minimum, maximum }: Setting): string {
  if (values) return `one of ${values.join(', ')}`;
  if (type === 'boolean') return 'true or false';
  if (pattern) return `a text that matches ${pattern}`;
  if (type !== 'integer') return 'a text';
  if (maximum === undefined)
    return minimum === undefined ? 'an integer' : `an integer from ${minimum}`;
  return `an integer from ${minimum} to ${maximum}`;
}

/** @throws {Error} with a line for each variable whose value is not valid. */
export function readConfig(env: NodeJS.ProcessEnv): Config {
  try {
    return envSchema<Config>({ schema: ConfigSchema, data: env, env: false, dotenv: false });
  } catch (error) {
    const { errors = [] } = error as { errors?: readonly { instancePath: string }[] };
    const wrong = new Set(errors.map(({ instancePath }) => instancePath.slice(1)));
    const lines = SETTINGS.filter(([name]) => wrong.has(name)).map(([name, setting]) => {
      const value = setting.writeOnly ? 'The value' : `"${env[name]?.slice(0, 60)}"`;
      return `${name}: ${value} is not valid; it takes ${allowedValues(setting)} (default: ${setting.default}).`;
    });
    throw lines.length > 0 ? new Error(lines.join('\n')) : error;
  }
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

/**
 * Measured peak memory: 5 times the body in float32, 8 times in float16, and twice that when it is
 * computed in float64.
 */
const MEMORY_SHARE = 1 / 16;

/** The limit on bytes in flight that is in force. */
export function maxInflightBytes(config: Config): number {
  return config.LORAGRAD_MAX_INFLIGHT_BYTES || Math.floor(usableMemory() * MEMORY_SHARE);
}

/** Memory for the tensors that are kept. */
export function storeBytes(config: Config): number {
  return config.LORAGRAD_STORE_BYTES || Math.min(GIB, Math.floor(usableMemory() / 8));
}

/** The largest MessagePack body: what is allowed in flight is allowed at most. */
export function maxBodyBytes(config: Config): number {
  return Math.min(config.LORAGRAD_MAX_BODY_BYTES, maxInflightBytes(config));
}
