/** The client against the real server, through the name that packages import. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import {
  Client,
  type Dtype,
  type GradientRequest,
  type JobStep,
  ProblemError,
  ServiceUnreachableError,
} from 'loragrad-client';
import { randomLayer, randomTensor } from '../support/client-problem.js';
import { metricIs } from '../support/processes/held.js';
import { sharedServer } from '../support/processes/server.js';
import { values } from '../support/wire/wire-tensor.js';

const server = await sharedServer();
const client = new Client(server.url);

const request = (): GradientRequest => randomLayer(12, 8).step(10);

test('gradients are those that the service computes, as typed arrays', async () => {
  const mine = request();
  const { gradients, seed, timings_ms } = await client.gradient({ ...mine, seed: 7 });
  const wire = ({ shape, data }: { shape: readonly number[]; data: Float32Array }) => ({
    dtype: 'float32',
    shape: [...shape],
    data: new Uint8Array(data.buffer),
  });
  // biome-ignore lint/suspicious/noExplicitAny: every tensor of the request is float32
  const encode = (value: any): any => {
    if (typeof value !== 'object') return value;
    if (value.data) return wire(value);
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, encode(item)]));
  };
  const raw = await server.gradient(encode(mine));
  for (const name of ['q_proj', 'v_proj'] as const) {
    for (const part of ['lora_A', 'lora_B'] as const) {
      const tensor = gradients?.[name]?.[part];
      assert.ok(tensor?.data instanceof Float32Array);
      const expected = raw.gradients?.[name]?.[part];
      assert.ok(expected);
      assert.deepEqual(tensor.shape, expected.shape);
      assert.deepEqual([...tensor.data], [...values(expected)]);
    }
  }
  assert.equal(gradients?.k_proj, undefined);
  assert.equal(seed, 7);
  assert.ok(timings_ms.total > 0);
});

test('respondAsync: a job computes the same answer', async () => {
  const mine = { ...request(), seed: 3 };
  const expected = await client.gradient(mine);
  const { gradients, error } = await client.gradient(mine, { respondAsync: true });
  assert.deepEqual({ gradients, error }, { gradients: expected.gradients, error: expected.error });
  // Given up when it asks for the answer: the job is there by then.
  const [left, reason] = [new AbortController(), new Error('enough')];
  const leaving: typeof globalThis.fetch = (input, init) => {
    if (String(input).includes('/jobs/') && init?.method === 'GET') left.abort(reason);
    return globalThis.fetch(input, init);
  };
  const impatient = new Client(server.url, { fetch: leaving });
  const options = { respondAsync: true, signal: left.signal };
  await assert.rejects(impatient.gradient(mine, options), reason);
  await metricIs(server.url, 'loragrad_kept_jobs', 0);
});

test('a job that the service has lost is begun again', async () => {
  const begun: string[] = [];
  const losing: typeof globalThis.fetch = async (input, init) => {
    const isFirst = init?.method === 'GET' && begun.length === 1;
    if (isFirst) await globalThis.fetch(input, { method: 'DELETE' });
    if (init?.method === 'POST') begun.push(String(input));
    return globalThis.fetch(input, init);
  };
  const mine = new Client(server.url, { fetch: losing });
  const { gradients } = await mine.gradient(request(), { respondAsync: true });
  assert.ok(gradients?.q_proj);
  assert.equal(begun.length, 2);
});

test('follow: progress, then the answer; who leaves the loop ends the job', async () => {
  const mine = { ...request(), seed: 3 };
  const steps: JobStep[] = [];
  for await (const step of client.follow(mine)) steps.push(step);
  const { answer } = steps.at(-1)!;
  assert.deepEqual(answer?.gradients, (await client.gradient(mine)).gradients);
  for (const { progress } of steps.slice(0, -1)) {
    assert.ok(progress!.fraction >= 0 && progress!.fraction <= 1);
  }
  assert.ok(steps.length > 1);
  for await (const { progress } of client.follow(mine)) if (progress) break;
  await metricIs(server.url, 'loragrad_kept_jobs', 0);
  await assert.rejects(client.follow({ ...mine, tolerance: -1 }).next(), ProblemError);
});

test('every dtype goes out and comes back', async () => {
  const dtypes: [Dtype, typeof Float32Array | typeof Float64Array][] = [
    ['float16', Float32Array],
    ['bfloat16', Float32Array],
    ['float32', Float32Array],
    ['float64', Float64Array],
  ];
  const { gradients: exact } = await client.gradient(request());
  for (const [dtype, Kind] of dtypes) {
    const mine = request();
    const lora_A = { ...randomTensor(11, [4, 8], 1 / Math.sqrt(8)), dtype };
    const answer = await client.gradient({ ...mine, q_proj: { ...mine.q_proj!, lora_A } });
    const tensor = answer.gradients?.q_proj?.lora_A;
    assert.equal(tensor?.dtype, dtype);
    assert.ok(tensor?.data instanceof Kind);
    const expected = exact?.q_proj?.lora_A.data as Float32Array;
    const largest = Math.max(...expected.map(Math.abs));
    tensor.data.forEach((value, k) => {
      assert.ok(Math.abs(value - expected[k]) < 0.03 * largest, `${dtype} ${k}`);
    });
  }
});

test('without dtype a Float64Array is float64', async () => {
  const mine = request();
  const { shape, data } = randomTensor(11, [4, 8]);
  const lora_A = { shape, data: Float64Array.from(data) };
  const answer = await client.gradient({ ...mine, q_proj: { ...mine.q_proj!, lora_A } });
  assert.equal(answer.gradients?.q_proj?.lora_A.dtype, 'float64');
});

test('a view into the middle of a larger array', async () => {
  const mine = request();
  const whole = mine.hidden_states as { shape: number[]; data: Float32Array };
  const padded = new Float32Array(whole.data.length + 10);
  padded.set(whole.data, 3);
  const data = padded.subarray(3, 3 + whole.data.length);
  const answer = await client.gradient({ ...mine, hidden_states: { shape: whole.shape, data } });
  const expected = await client.gradient(mine);
  assert.deepEqual(answer.gradients, expected.gradients);
});

test('plan and limits', async () => {
  const { grad_output: _, ...layer } = request();
  const plan = await client.plan(layer);
  assert.equal(typeof plan.threshold.below_threshold, 'boolean');
  assert.ok(plan.plan.exact_flops > 0);
  const limits = await client.limits();
  assert.ok(limits.max_store_bytes > 0 && limits.max_store_bytes <= 1024 ** 3);
});

test('a refusal is a ProblemError with type, pointer and figures', async () => {
  const mine = request();
  const refused = client.gradient({ ...mine, grad_output: randomTensor(1, [11, 8]) });
  await assert.rejects(refused, (error: unknown) => {
    assert.ok(error instanceof ProblemError && error instanceof Error);
    assert.equal(error.type, 'urn:loragrad:problem:shape-mismatch');
    assert.equal(error.pointer, '/grad_output');
    assert.equal(error.status, 422);
    assert.match(error.message, /grad_output has shape \(11, 8\)/);
    assert.match(error.instance ?? '', /^[0-9a-f-]{36}$/);
    assert.equal(error.missing, undefined);
    return true;
  });
  const short = { shape: [4, 8], data: new Float32Array(31) };
  const invalid = client.gradient({ ...mine, q_proj: { ...mine.q_proj!, lora_A: short } });
  await assert.rejects(invalid, { limit: 128, actual: 124, pointer: '/q_proj/lora_A/data' });
});

test('what does not come from the service is a ProblemError too', async () => {
  const proxy = createServer((_, response) => response.writeHead(502).end('<h1>Bad gateway</h1>'));
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const { port } = proxy.address() as AddressInfo;
  const lost = new Client(`http://127.0.0.1:${port}`).gradient(request());
  await assert.rejects(lost, { name: 'ProblemError', type: 'about:blank', status: 502 });
  proxy.close();
});

test('nobody listens: tried again, then an error that names the address', async () => {
  const nobody = new Client('http://127.0.0.1:1/below', { retries: 1 });
  await assert.rejects(nobody.gradient(request()), (error: unknown) => {
    assert.ok(error instanceof ServiceUnreachableError);
    assert.equal(error.url, 'http://127.0.0.1:1/below/gradient');
    assert.match(error.message, /http:\/\/127\.0\.0\.1:1\/below\/gradient .*ECONNREFUSED/);
    return true;
  });
});

test('a service that starts a little later is found', async () => {
  const proxy = createServer((_, response) => response.end('{"max_requests":7}'));
  const address = (): number => (proxy.address() as AddressInfo).port;
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const port = address();
  await new Promise((resolve) => proxy.close(resolve));
  const limits = new Client(`http://127.0.0.1:${port}`).limits();
  setTimeout(() => proxy.listen(port, '127.0.0.1'), 100);
  assert.equal((await limits).max_requests, 7);
  proxy.close();
});

test('an answer may take longer than fetch waits for one', async () => {
  const slow = createServer((_, response) => setTimeout(() => response.end('{}'), 2500));
  await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(slow.address() as AddressInfo).port}`;
  // What fetch waits for in Node, cut short: 300 s otherwise.
  const key = Symbol.for('undici.globalDispatcher.1');
  const global = globalThis as unknown as Record<symbol, { constructor: new (o: object) => never }>;
  await fetch(server.url).catch(() => {});
  const usual = global[key];
  global[key] = new usual.constructor({ headersTimeout: 500 });
  try {
    await assert.rejects(fetch(url), ({ cause }: Error) => {
      assert.equal((cause as { code?: string }).code, 'UND_ERR_HEADERS_TIMEOUT');
      return true;
    });
    assert.deepEqual(await new Client(url).limits(), {});
  } finally {
    global[key] = usual;
    slow.close();
  }
});

test('headers of the caller go with every request', async () => {
  const seen: (string | undefined)[] = [];
  const proxy = createServer(({ headers }, response) => {
    seen.push(headers.authorization);
    response.end('{}');
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const { port } = proxy.address() as AddressInfo;
  const headers = { authorization: 'Bearer secret' };
  const mine = new Client(`http://127.0.0.1:${port}`, { headers });
  await mine.limits();
  await mine.plan({ ...request() }).catch(() => {});
  assert.deepEqual(seen, ['Bearer secret', 'Bearer secret']);
  proxy.close();
});

test('the service may be below a path', async () => {
  const seen: string[] = [];
  const fetch: typeof globalThis.fetch = async (input, init) => {
    const url = new URL(String(input));
    seen.push(url.pathname);
    url.pathname = url.pathname.replace('/lora/grad', '');
    return globalThis.fetch(url, init);
  };
  for (const below of ['/lora/grad', '/lora/grad/']) {
    await new Client(new URL(below, server.url), { fetch }).limits();
  }
  assert.deepEqual(seen, ['/lora/grad/limits', '/lora/grad/limits']);
});

test('a call that is aborted rejects with the reason, before and while it computes', async () => {
  const reason = new Error('enough');
  await assert.rejects(client.gradient(request(), { signal: AbortSignal.abort(reason) }), reason);
  const controller = new AbortController();
  const long = client.gradient(randomLayer(16_000, 64).step(1), { signal: controller.signal });
  const rejected = assert.rejects(long, reason);
  const givenUp = async () => {
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    return Number(metrics.match(/cancelled_total{reason="client-gone"} (\d+)/)?.[1] ?? 0);
  };
  const before = await givenUp();
  await metricIs(server.url, 'loragrad_jobs', 1);
  controller.abort(reason);
  await rejected;
  while ((await givenUp()) === before);
});
