/**
 * Writes openapi/answers.json: what the service answers to the examples of the documentation, and a problem of
 * each kind as it comes (npm run examples).
 */
import { writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { storeFull } from '../src/cluster/faults.js';
import { readConfig } from '../src/config.js';
import { type Engine, ThreadedEngine } from '../src/engine/engine.js';
import { Problem, type ProblemDetails } from '../src/errors.js';
import { buildApp } from '../src/http/app.js';
import { REQUEST_EXAMPLES, TENSOR_EXAMPLE_DIGEST } from '../src/http/schemas/example.js';
import type { Recorded, RecordedAnswer } from '../src/http/schemas/recorded.js';
import { IDLE } from './generate.js';

const TENSOR_URL = `/tensors/${TENSOR_EXAMPLE_DIGEST}`;
const ROUTES = { putTensor: TENSOR_URL, gradient: '/gradient', forward: '/forward', plan: '/plan' };
const FINE = REQUEST_EXAMPLES.gradient.exact.value as Record<string, unknown>;

const json = (body: unknown): InjectOptions => ({
  method: 'POST',
  url: '/gradient',
  headers: { 'content-type': 'application/json' },
  payload: JSON.stringify(body),
});

/** The examples in their order: the first keeps the tensor that later ones refer to. */
export async function recordAnswers(app: FastifyInstance): Promise<Recorded['answers']> {
  const answers: Record<string, Record<string, RecordedAnswer>> = {};
  for (const [id, url] of Object.entries(ROUTES)) {
    answers[id] = {};
    for (const [name, { value }] of Object.entries(REQUEST_EXAMPLES[id])) {
      const method = id === 'putTensor' ? 'PUT' : 'POST';
      const { statusCode, body } = await app.inject({ ...json(value), method, url });
      answers[id][name] = { status: statusCode, body: body === '' ? null : JSON.parse(body) };
    }
  }
  const stored = await app.inject({ url: TENSOR_URL, headers: { accept: 'application/json' } });
  answers.getTensor = { two_by_two: { status: stored.statusCode, body: stored.json() } };
  return answers;
}

/** Requests that a healthy service refuses. */
const REFUSED: readonly InjectOptions[] = [
  { ...json({}), payload: '{"hidden_states": [[1,' },
  { url: '/%' },
  { url: '/gradients' },
  { url: '/gradient' },
  { ...json(FINE), headers: { 'content-type': 'application/json', accept: 'text/html' } },
  json({ ...FINE, target: { $ref: `sha256:${'0'.repeat(64)}` } }),
  { ...json(FINE), payload: `[${' '.repeat(2 ** 20)}]` },
  { url: `/tensors/${'0'.repeat(200)}` },
  { ...json(FINE), headers: { 'content-type': 'text/plain' } },
  json({ ...FINE, targets: 1 }),
  json({ ...FINE, v_proj: undefined }),
  json({ ...FINE, grad_output: FINE.target }),
  json({ ...FINE, tolerance: -1 }),
  json({ ...FINE, target: { dtype: 'float32', shape: [4, 2], data: 'AAAA' } }),
  { ...json([[1, 2]]), method: 'PUT', url: TENSOR_URL },
  json({
    ...FINE,
    target: { dtype: 'float32', shape: [1, 2], data: 'AADAfwAAAAA=' },
    hidden_states: [[1, 2, 3, 4]],
  }),
  REQUEST_EXAMPLES.gradient.fails.value ? json(REQUEST_EXAMPLES.gradient.fails.value) : {},
  { ...json({}), payload: `${'['.repeat(40)}1${']'.repeat(40)}` },
  json({
    ...FINE,
    q_proj: { weight: (FINE.q_proj as { weight: unknown }).weight },
    v_proj: { weight: (FINE.v_proj as { weight: unknown }).weight },
  }),
  json({ ...FINE, method: 'low_rank', tolerance: 1e-9, features: 1 }),
];

/** Never answers, unless to say why not. */
function stubEngine(failure: Error | null): Engine {
  return {
    ...IDLE,
    run: ({ kind: _ }, { signal }) => {
      const answer = new Promise<never>((_, reject) => {
        if (failure) reject(failure);
        signal.addEventListener('abort', () => reject(signal.reason));
      });
      return { answer, settled: answer.catch(() => {}) };
    },
  };
}

/** POST of the example over a socket: what is admitted and what waits is told by sockets. */
function overSocket(app: FastifyInstance): () => Promise<ProblemDetails> {
  const { port } = app.server.address() as AddressInfo;
  const { headers, payload } = json(FINE);
  return async () => {
    const url = `http://127.0.0.1:${port}/gradient`;
    const init = {
      method: 'POST',
      headers: headers as Record<string, string>,
      body: payload as string,
    };
    return (await (await fetch(url, init)).json()) as ProblemDetails;
  };
}

const listening = async (settings: NodeJS.ProcessEnv, engine: Engine) => {
  const app = await buildApp(readConfig({ LOG_LEVEL: 'silent', ...settings }), engine);
  await app.listen({ port: 0, host: '127.0.0.1' });
  return app;
};

/** Problems that a service has when it is busy, slow, broken, closed to some or on its way out. */
async function recordTroubles(): Promise<ProblemDetails[]> {
  // Long enough for another request to wait for a place in vain.
  const settings = { LORAGRAD_MAX_REQUESTS: '1', LORAGRAD_DEADLINE_MS: '3000' };
  const busy = await listening(settings, stubEngine(null));
  const post = overSocket(busy);
  const slow = post();
  await new Promise((resolve) => setTimeout(resolve, 100));
  const refused = await post();
  const late = await slow;
  const last = post();
  await new Promise((resolve) => setTimeout(resolve, 100));
  busy.cancelAll(new Problem('shutting-down', 'The service shut down before the end.'));
  const ended = await last;
  await busy.close();
  const others: ProblemDetails[] = [];
  for (const [more, failure, request] of [
    [{}, new Error('A worker thread died'), json(FINE)],
    [{}, storeFull(), json(FINE)],
    [
      { LORAGRAD_STORE_BYTES: '8' },
      null,
      {
        ...json([
          [1, 2],
          [3, 4],
        ]),
        method: 'PUT',
        url: TENSOR_URL,
      },
    ],
    [{ LORAGRAD_API_KEYS: 'trainers:a-key-of-sixteen-and-more' }, null, json(FINE)],
    [{ LORAGRAD_HOSTS: 'gradients.example' }, null, json(FINE)],
  ] as const) {
    const app = await buildApp(readConfig({ LOG_LEVEL: 'silent', ...more }), stubEngine(failure));
    others.push((await app.inject(request as InjectOptions)).json());
    await app.close();
  }
  return [refused, late, ended, ...others];
}

export async function recordProblems(app: FastifyInstance): Promise<Recorded['problems']> {
  const all: ProblemDetails[] = [];
  for (const request of REFUSED) all.push((await app.inject(request)).json());
  all.push(...(await recordTroubles()));
  return Object.fromEntries(
    all.map((problem) => [problem.type.split(':').at(-1) as string, problem]),
  );
}

if (process.argv[1]?.endsWith('record.js')) {
  const config = readConfig({ LOG_LEVEL: 'silent' });
  const engine = await ThreadedEngine.start({ workers: 1, warmUpMs: config.LORAGRAD_WARMUP_MS });
  const app = await buildApp(config, engine);
  const recorded: Recorded = {
    answers: await recordAnswers(app),
    problems: await recordProblems(app),
  };
  await app.close();
  await engine.close();
  const file = new URL('../../openapi/answers.json', import.meta.url);
  writeFileSync(file, `${JSON.stringify(recorded, null, 1)}\n`);
}
