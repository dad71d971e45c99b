/** `{"$ref": "sha256:..."}` in place of tensors. */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import { type GradientRequest, loadFixtures } from '../support/fixtures.js';
import { metricIs, unfinishedRequest } from '../support/processes/held.js';
import { type GradientAnswer, sharedServer, startServer } from '../support/processes/server.js';
import { putTensor, putTensors, sha256, withReferences } from '../support/references.js';
import { DIALECTS, decodeAnswer, mapTensors } from '../support/wire/dialects.js';
import { encodeMsgpack } from '../support/wire/msgpack-encode.js';
import type { WireTensor } from '../support/wire/wire-tensor.js';

const FIXTURES = loadFixtures();
const request = (name: string): GradientRequest => {
  const fixture = FIXTURES.find((one) => one.name === name);
  assert.ok(fixture, name);
  return fixture.request;
};
const SMALL = request('tiny-self');

const server = await sharedServer();

/** All of an answer but the clock. */
function bits({ timings_ms: _, ...answer }: GradientAnswer): unknown {
  return mapTensors(answer, ({ dtype, shape, data }) => ({ dtype, shape, bits: [...data] }));
}

async function problem(response: Response): Promise<ProblemDetails & { kind: string }> {
  const details = (await response.json()) as ProblemDetails;
  return { ...details, kind: details.type.replace(/.*:/, '') };
}

async function figures(response: Response): Promise<unknown[]> {
  const { kind, limit, actual } = await problem(response);
  return [kind, limit, actual];
}

const FIXTURE_NAMES = FIXTURES.map(({ name }) => name).filter((name) =>
  /^(self-qkv|cross-qkv|everything|batch-3|mixed|bfloat16|float16|float64|tiny)/.test(name),
);
for (const name of FIXTURE_NAMES) {
  test(`${name}: all tensors by reference give the same answer, bit for bit, twice`, async () => {
    const whole = request(name);
    const expected = bits(await server.gradient(whole));
    await putTensors(server.url, whole);
    const referring = withReferences(whole);
    assert.deepEqual(bits(await server.gradient(referring)), expected);
    assert.deepEqual(bits(await server.gradient(referring)), expected, 'inputs were written to');
    const [plan, planned] = [await server.plan(referring), await server.plan(whole)];
    assert.deepEqual(plan.threshold, planned.threshold);
  });
}

for (const dialect of Object.values(DIALECTS)) {
  test(`${dialect.name}: references beside tensors, answered in kind`, async () => {
    const whole = request('self-qv');
    await putTensors(server.url, whole);
    const isStates = (tensor: WireTensor) => tensor === whole.hidden_states;
    const referring = withReferences(whole, (tensor) => !isStates(tensor));
    const ask = async (body: GradientRequest) => {
      const { contentType, encode } = dialect;
      const response = await server.post('/gradient', encode(body), contentType, contentType);
      const bytes = new Uint8Array(await response.arrayBuffer());
      assert.equal(response.status, 200, Buffer.from(bytes).toString());
      return decodeAnswer(bytes, contentType) as GradientAnswer;
    };
    const [referred, sent] = [await ask(referring), await ask(whole)];
    const forms = (answer: GradientAnswer) => {
      const found: unknown[] = [];
      mapTensors(answer, (tensor) => found.push((tensor as { form?: string }).form));
      return found;
    };
    assert.deepEqual(forms(referred), forms(sent));
    assert.deepEqual(bits(referred), bits(sent));
  });
}

test('missing references: 409 that lists each of them once', async () => {
  const whole = request('self-qkv');
  const fresh = await startServer();
  try {
    const { weight } = whole.q_proj;
    await putTensor(fresh.url, weight);
    const referring = withReferences(whole);
    for (const { contentType, encode } of [DIALECTS.tensors, DIALECTS.base64]) {
      for (const path of ['/gradient', '/plan']) {
        const response = await fresh.post(path, encode(referring), contentType, contentType);
        assert.equal(response.status, 409);
        const { kind, missing, pointer } = await problem(response);
        assert.equal(kind, 'missing-tensors');
        const all = new Set<string>();
        mapTensors(whole, (tensor) => all.add(`sha256:${sha256(tensor)}`));
        all.delete(`sha256:${sha256(weight)}`);
        assert.deepEqual(new Set(missing), all);
        assert.equal(missing?.length, all.size);
        assert.match(pointer ?? '', /^\//);
      }
    }
    await putTensors(fresh.url, whole);
    assert.ok((await fresh.gradient(referring)).gradients);
  } finally {
    await fresh.close();
  }
});

const REF = { $ref: `sha256:${'0'.repeat(64)}` };
const BAD: Record<string, { weight: unknown; kind: string; pointer: string; extra?: object }> = {
  'upper-case digits': {
    weight: { $ref: `sha256:${'A'.repeat(64)}` },
    kind: 'invalid-tensor',
    pointer: '/q_proj/weight/$ref',
  },
  'no algorithm': {
    weight: { $ref: '0'.repeat(64) },
    kind: 'invalid-tensor',
    pointer: '/q_proj/weight/$ref',
  },
  'a number': { weight: { $ref: 1 }, kind: 'invalid-tensor', pointer: '/q_proj/weight/$ref' },
  'a key beside it': {
    weight: { ...REF, dtype: 'float32' },
    kind: 'invalid-tensor',
    pointer: '/q_proj/weight/dtype',
  },
  'where no tensor may stand': {
    weight: REF,
    extra: { scaling: REF },
    kind: 'invalid-value',
    pointer: '/scaling',
  },
  'a misspelt key is told before a missing tensor': {
    weight: REF,
    extra: { taget: 1 },
    kind: 'unknown-key',
    pointer: '/taget',
  },
};
for (const [name, { weight, kind, pointer, extra }] of Object.entries(BAD)) {
  test(`a reference with a fault: ${name}`, async () => {
    const body = { ...SMALL, q_proj: { ...SMALL.q_proj, weight }, ...extra };
    const { contentType } = DIALECTS.tensors;
    const response = await server.post('/gradient', encodeMsgpack(body), contentType, contentType);
    assert.equal(response.status, 422);
    const refused = await problem(response);
    assert.deepEqual([refused.kind, refused.pointer], [kind, pointer]);
  });
}

test('the shape of a stored tensor is checked like any other', async () => {
  await putTensors(server.url, SMALL);
  const swapped = withReferences({ ...SMALL, target: SMALL.q_proj.weight });
  await assert.rejects(server.gradient(swapped), /shape-mismatch.*target has shape/s);
});

test('requests that refer to tensors while others delete and send them: 200 or 409', async () => {
  const whole = request('heads-8');
  const { weight } = whole.v_proj;
  await putTensors(server.url, whole);
  const expected = bits(await server.gradient(whole));
  const body = DIALECTS.tensors.encode(withReferences(whole, (tensor) => tensor === weight));
  const { contentType } = DIALECTS.tensors;
  const statuses = { 200: 0, 409: 0 } as Record<number, number>;
  let running = true;
  const churn = (async () => {
    while (running) {
      await fetch(`${server.url}/tensors/${sha256(weight)}`, { method: 'DELETE' });
      await putTensor(server.url, weight);
    }
  })();
  const asks = Array.from({ length: 8 }, async () => {
    for (let k = 0; k < 10; k++) {
      const response = await server.post('/gradient', body, contentType, contentType);
      statuses[response.status] = (statuses[response.status] ?? 0) + 1;
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (response.status === 200) {
        assert.deepEqual(bits(decodeAnswer(bytes, contentType) as GradientAnswer), expected);
      }
    }
  });
  await Promise.all(asks);
  running = false;
  await churn;
  assert.equal(statuses[200] + statuses[409], 80, JSON.stringify(statuses));
});

test('tensors that are referred to count as bytes in flight', async () => {
  const whole = request('heads-8');
  const body = DIALECTS.tensors.encode(withReferences(whole));
  let referred = 0;
  mapTensors(whole, ({ data }) => {
    referred += data.length;
  });
  // Exactly one such request fits.
  const limit = body.length + referred;
  const fresh = await startServer({ LORAGRAD_MAX_INFLIGHT_BYTES: String(limit) });
  let held: Socket | undefined;
  try {
    await putTensors(fresh.url, whole);
    held = unfinishedRequest(fresh.url, 9);
    await metricIs(fresh.url, 'loragrad_inflight_bytes', 9);
    const { contentType } = DIALECTS.tensors;
    const busy = await fresh.post('/gradient', body, contentType, contentType);
    assert.equal(busy.status, 429);
    assert.deepEqual(await figures(busy), ['queue-full', limit, limit + 9]);
    held.destroy();
    await metricIs(fresh.url, 'loragrad_inflight_bytes', 0);
    assert.ok((await fresh.gradient(withReferences(whole))).gradients, 'alone it fits');
    // One byte more could never be let in.
    const longer = DIALECTS.tensors.encode({
      ...withReferences(whole),
      seed: 0,
    } as GradientRequest);
    const never = await fresh.post('/gradient', longer, contentType, contentType);
    assert.equal(never.status, 413);
    const extra = longer.length - body.length;
    assert.deepEqual(await figures(never), ['body-too-large', limit, limit + extra]);
  } finally {
    held?.destroy();
    await fresh.close();
  }
});

test('hits, misses and the bytes that stayed at home are counted', async () => {
  const fresh = await startServer();
  try {
    await putTensors(fresh.url, SMALL);
    await fresh.gradient(withReferences(SMALL));
    const { weight } = SMALL.k_proj;
    await fetch(`${fresh.url}/tensors/${sha256(weight)}`, { method: 'DELETE' });
    await assert.rejects(fresh.gradient(withReferences(SMALL)), /^Error: 409/);
    let [count, bytes] = [0, 0];
    mapTensors(SMALL, (tensor) => {
      count += 1;
      bytes += tensor.data.length;
    });
    const metrics = await (await fetch(`${fresh.url}/metrics`)).text();
    const value = (name: string) => Number(metrics.match(new RegExp(`^${name} (\\S+)$`, 'm'))?.[1]);
    assert.equal(value('loragrad_store_references_total\\{result="hit"\\}'), 2 * count - 1);
    assert.equal(value('loragrad_store_references_total\\{result="miss"\\}'), 1);
    assert.equal(value('loragrad_store_referenced_bytes_total'), bytes);
  } finally {
    await fresh.close();
  }
});
