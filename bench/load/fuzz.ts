/** Structured bodies, right and wrong, over HTTP: no 500, no infinity, and the service stays quick. */
import { Packr } from 'msgpackr/pack';
import { unpack } from 'msgpackr/unpack';
import { seededRandom } from '../../test/support/random.js';
import { sizedRequest } from '../../test/support/wire/sized-request.js';
import { httpRequest } from '../support/http-load.js';
import { Service } from '../support/service.js';
import { quantile } from '../support/statistics.js';
import { probe } from './beside.js';
import { Client } from './client.js';
import { flat, none, type TrialResult, told } from './trial.js';

const LANES = 8;
const MOST_NUMBERS = 2 ** 10;
const packr = new Packr({ useRecords: false });

// biome-ignore lint/suspicious/noExplicitAny: a body of any shape
type Body = Record<string, any>;

const STRANGE: readonly unknown[] = [
  ...[null, true, -1, 0, 1, 2 ** 31, 2 ** 53, 1e300, Number.NaN, Number.POSITIVE_INFINITY],
  ...['', 'x'.repeat(1000), [], {}, [[]], [[1], [1, 2]], { $ref: 'sha256:' }, new Uint8Array(3)],
  ...['exact', 'low_rank', 'auto', [0, 0], [-1, 1], [1e9, 1e9]],
];
const KEYS = [
  ...['is_causal', 'window', 'key_lengths', 'first_keys', 'sequence_lengths', 'softcap', 'sinks'],
  ...['method', 'features', 'keys', 'tolerance', 'seed', 'scaling', 'outputs', 'outputs_dtype'],
  ...['num_attention_heads', 'num_key_value_heads', 'cos', 'sin', 'correction', 'certificate'],
];

function spoil(body: Body, random: ReturnType<typeof seededRandom>): Body {
  const one = <T>(of: readonly T[]) => of[random.integer(0, of.length - 1)] as T;
  const copy: Body = { ...body };
  const key = one([...Object.keys(copy), ...KEYS]);
  const value = copy[key];
  const dice = random.uniform();
  if (dice < 0.2) delete copy[key];
  else if (dice < 0.6 || typeof value !== 'object' || value === null) copy[key] = one(STRANGE);
  else if (dice < 0.8 && Array.isArray(value.shape)) {
    copy[key] = {
      ...value,
      shape: (value.shape as unknown[]).map(() => one([0, 1, 2, 3, 7, 2 ** 31])),
    };
  } else copy[key] = { ...value, [one(Object.keys(value))]: one(STRANGE) };
  return copy;
}

function holdsInfinity(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value);
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return false;
  return Object.values(value).some(holdsInfinity);
}

const LOST = ['500', 'cut', 'truncated', 'refused', 'hangs'];
/** How often the memory is looked at. */
const LOOKS = 10;
const LOOP_MS = 100;
/** Of the memory of the first half: bodies are of all sizes. */
const MORE_MEMORY = 1.5;

export async function fuzz(wanted: number, seed: number): Promise<TrialResult> {
  const service = await Service.start({ workers: 2, env: { LORAGRAD_DEADLINE_MS: '10000' } });
  const statuses: Record<string, number> = {};
  const [lost, infinite]: [string[], string[]] = [[], []];
  const resident: number[] = [];
  let sent = 0;
  const lane = async () => {
    const client = new Client(service.port);
    while (sent < wanted) {
      const round = sent++;
      if (round % Math.ceil(wanted / LOOKS) === 0) resident.push(service.memory().resident);
      const random = seededRandom(seed + round);
      const request = sizedRequest(random, MOST_NUMBERS);
      let { body } = request;
      while (random.uniform() < 0.6) body = spoil(body, random);
      const bytes = Buffer.from(packr.pack(body));
      const contentType = 'application/vnd.msgpack';
      const answer = await client.send(
        httpRequest('POST', `/${request.path}`, { contentType, bytes }),
      );
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
      if (LOST.includes(answer.status)) lost.push(`${round}: ${answer.loss ?? answer.body}`);
      if (answer.status === '200' && holdsInfinity(unpack(answer.body))) infinite.push(`${round}`);
    }
    client.close();
  };
  try {
    const endProbe = probe(service.port);
    await Promise.all(Array.from({ length: LANES }, lane));
    const health = await endProbe();
    const late = 1000 * (await service.metric('nodejs_eventloop_lag_p99_seconds'));
    const p99 = quantile(health, 0.99);
    const { peak } = service.memory();
    return {
      text: `${sent} structured bodies over HTTP (seed ${seed}). ${told(statuses)}; health in ${p99.toFixed(0)} ms (p99); at most ${Math.round(peak / 2 ** 20)} MiB resident.`,
      targets: [
        none('answers with 500, and no connection cut', lost.length, lost),
        none('infinity in an answer', infinite.length, infinite),
        {
          wanted: `event loop of the HTTP thread late by at most ${LOOP_MS} ms (p99)`,
          measured: `${late.toFixed(0)} ms`,
          met: late <= LOOP_MS,
        },
        flat('resident memory', resident, MORE_MEMORY),
      ],
    };
  } finally {
    await service.stop();
  }
}
