/** Every setting, its default and its environment variable. docs/operations.md takes its table from here. */
import Type, { type Static } from 'typebox';
import { KERNEL_CHOICES } from '../workers/kernels/inner/load.js';

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

/** A time, at most what a timer of Node can wait. */
const milliseconds = (byDefault: number, minimum: number, description: string) =>
  Type.Integer({ default: byDefault, minimum, maximum: 2 ** 31 - 1, description });

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
      'Build of the inner loops. auto: the widest that computes correctly. native, avx2: this one, or the service does not start. wasm: WebAssembly',
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
      'Requests that may compute or wait to. Four times as many may wait up to a second for a place; the others get 429. Clients that have less than their share may use as many places again',
  }),
  LORAGRAD_MAX_INFLIGHT_BYTES: Type.Integer({
    default: 0,
    minimum: 0,
    description:
      'Bytes of all bodies that have arrived, of tensors that they refer to, and of answers that are computed or not yet read. Beyond it requests get 429; clients that have less than their share may use as much again. 0 means a sixteenth of the memory that the process may use (cgroup limit included)',
  }),
  LORAGRAD_COMPUTE_BYTES: Type.Integer({
    default: 0,
    minimum: 0,
    description:
      'Memory for all running computations, bytes, as predicted from their shapes; the others wait. 0 means three eighths of the memory that the process may use',
  }),
  LORAGRAD_MAX_COMPUTE_SECONDS: Type.Integer({
    default: 3600,
    minimum: 1,
    description: 'Longest computation that is accepted, in predicted seconds of one worker',
  }),
  LORAGRAD_STORE_BYTES: Type.Integer({
    default: 0,
    minimum: 0,
    description:
      'Memory for the tensors that PUT /tensors keeps, bytes; the least recently used ones are dropped to make room. 0 means 1 GiB, or an eighth of the memory that the process may use if that is less',
  }),
  LORAGRAD_DEADLINE_MS: milliseconds(
    600_000,
    1,
    'Longest time from the head of a request to its answer, ms. Then its work is stopped and it gets 504',
  ),
  LORAGRAD_JOB_DEADLINE_MS: milliseconds(
    14_400_000,
    1,
    'The same for a job (a request with Prefer: respond-async), ms',
  ),
  LORAGRAD_JOB_TTL_MS: milliseconds(
    600_000,
    1,
    'How long the answer of a job is kept until it is fetched, ms',
  ),
  LORAGRAD_MAX_JOBS: Type.Integer({
    default: 1024,
    minimum: 0,
    maximum: 100_000,
    description:
      'Jobs that are computed or whose answers are kept; the others get 429. Clients that have less than their share may have as many again. Kept answers count as not yet read',
  }),
  LORAGRAD_BODY_TIMEOUT_MS: milliseconds(
    300_000,
    1,
    'Longest time for a request to arrive whole, ms; then the connection is closed with 408',
  ),
  LORAGRAD_MIN_RATE: Type.Integer({
    default: 1024,
    minimum: 1,
    description:
      'Lowest average rate at which a client may send a body or read an answer, bytes a second; slower connections are cut',
  }),
  LORAGRAD_PATIENCE_MS: milliseconds(
    10_000,
    10,
    'Longest pause while a body is sent or an answer is read, ms; then the connection is cut',
  ),
  LORAGRAD_LAME_DUCK_MS: milliseconds(
    3000,
    0,
    'How long the service goes on after SIGTERM while /health/ready says 503, ms: time for a load balancer to see it',
  ),
  LORAGRAD_DRAIN_MS: milliseconds(
    30_000,
    1,
    'Longest time for requests in flight to finish after SIGTERM, ms; then the process ends',
  ),
  LORAGRAD_HUNG_MS: milliseconds(
    60_000,
    100,
    'A worker that gives no sign of life for this long is replaced, ms',
  ),
  LORAGRAD_WARMUP_MS: milliseconds(
    120_000,
    1,
    'Longest time for all workers to run their warm-up task, ms; then the start fails. It takes some seconds, on a busy machine up to a minute',
  ),
  LORAGRAD_BASE_PATH: Type.String({
    default: '',
    pattern: '^(/[A-Za-z0-9._~-]+)*$',
    description:
      'Path below which a proxy publishes the service (/loragrad), for the addresses in its documentation. Requests are answered with and without it. The header X-Forwarded-Prefix has precedence',
  }),
  LORAGRAD_API_KEYS: Type.String({
    default: '',
    description:
      'Who may use the service: name:key pairs, separated by commas, each with quotas if wanted: one:KEY requests=600 bytes=1000000000 stored=500000000 (requests and bytes a minute). Empty, and no file: everybody. Health and pages need no key',
  }),
  LORAGRAD_API_KEYS_FILE: Type.String({
    default: '',
    description:
      'File with one name:key pair a line, instead; changes are seen within seconds, without a restart',
  }),
  LORAGRAD_HOSTS: Type.String({
    default: '',
    description:
      'Names that the service answers to, separated by commas; requests for another Host get 421. Empty: all',
  }),
  LORAGRAD_DOCS: Type.Boolean({
    default: true,
    description: 'Whether the pages /, /guide and /docs and the document /openapi.json are served',
  }),
  LORAGRAD_METRICS_PORT: Type.Integer({
    default: 0,
    minimum: 0,
    maximum: 65535,
    description:
      'TCP port for the operator, plain HTTP without a key: /metrics, which is then nowhere else, and /health, which does not wait behind clients there. 0: none, /metrics is on the port of the service',
  }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.String({
    default: '',
    pattern: '^(https?://.+)?$',
    description:
      'Address of an OpenTelemetry collector for OTLP over HTTP (http://127.0.0.1:4318), which gets a trace of each request. Empty: nothing is traced',
  }),
  LORAGRAD_TLS_CERT_FILE: Type.String({
    default: '',
    description:
      'PEM file with the certificate; with it the service speaks HTTPS. It is read again when it changes',
  }),
  LORAGRAD_TLS_KEY_FILE: Type.String({
    default: '',
    description: 'PEM file with the key of the certificate',
  }),
  LORAGRAD_QUEUE_URL: Type.String({
    default: '',
    pattern: '^(rediss?://.+)?$',
    writeOnly: true,
    description:
      'Valkey or Redis through which parts of large problems go to machines that run loragrad worker, and which services share tensors by: redis://user:password@host:6379, rediss:// for TLS. Empty: everything is computed here',
  }),
  LORAGRAD_QUEUE_TTL_MS: milliseconds(
    600_000,
    1000,
    'How long tensors and results stay in that store after their last use, ms',
  ),
  LORAGRAD_CORS_ORIGINS: Type.String({
    default: '',
    description:
      'Origins whose pages may call the service (CORS), separated by commas (https://example.org), or *. Empty: only its own',
  }),
});

export type Config = Static<typeof ConfigSchema>;

interface Setting {
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
