/** Prefer: respond-async: a job computes while nobody is connected, and gives its answer once. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { metricIs } from '../support/processes/held.js';
import { type GradientAnswer, sharedServer } from '../support/processes/server.js';
import { endlessBody, pack, tensor, validBody } from '../support/wire/bodies.js';
import { decodeAnswer } from '../support/wire/dialects.js';

const MSGPACK = 'application/vnd.msgpack';
const KEYS = { one: 'first-key-of-sixteen-letters', two: 'second-key-of-sixteen-letters' };

const server = await sharedServer({
  LORAGRAD_MAX_JOBS: '2',
  LORAGRAD_API_KEYS: `one:${KEYS.one},two:${KEYS.two}`,
});

const by = (key: keyof typeof KEYS) => ({ authorization: `Bearer ${KEYS[key]}` });

function begin(body: Uint8Array, path = '/gradient', headers = {}): Promise<Response> {
  return fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': MSGPACK, prefer: 'respond-async', ...by('one'), ...headers },
    body: new Uint8Array(body),
  });
}

const ask = (location: string, method = 'GET', key: keyof typeof KEYS = 'one') =>
  fetch(server.url + location, { method, headers: by(key) });

/** The first answer that is no progress. */
async function outcome(location: string): Promise<Response> {
  for (;;) {
    const response = await ask(location);
    if (response.status !== 202) return response;
    await response.arrayBuffer();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function locationOf(response: Response): Promise<string> {
  assert.equal(response.status, 202);
  assert.equal(response.headers.get('preference-applied'), 'respond-async');
  assert.match(response.headers.get('retry-after') ?? '', /^\d+$/);
  await response.arrayBuffer();
  return response.headers.get('location') ?? '';
}

test('202 with a Location; then the same answer as without, once', async () => {
  const body = pack(validBody());
  const plain = await fetch(`${server.url}/gradient`, {
    method: 'POST',
    headers: { 'content-type': MSGPACK, ...by('one') },
    body: new Uint8Array(body),
  });
  const expected = decodeAnswer(new Uint8Array(await plain.arrayBuffer()), MSGPACK);
  const location = await locationOf(await begin(body));
  assert.match(location, /^\/jobs\/[0-9a-f-]{36}$/);
  const response = await outcome(location);
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('content-type'), MSGPACK);
  const answer = decodeAnswer(new Uint8Array(await response.arrayBuffer()), MSGPACK);
  const { gradients, error } = answer as GradientAnswer;
  assert.deepEqual(
    { gradients, error },
    {
      gradients: (expected as GradientAnswer).gradients,
      error: (expected as GradientAnswer).error,
    },
  );
  await metricIsFor('loragrad_kept_jobs', 0);
  assert.equal((await ask(location)).status, 404);
});

test('POST /forward takes it too; other routes do not', async () => {
  const { target: _, ...layer } = validBody() as Record<string, unknown>;
  const response = await outcome(await locationOf(await begin(pack(layer), '/forward')));
  assert.equal(response.status, 200);
  await response.arrayBuffer();
  const plan = await begin(pack(validBody()), '/plan');
  assert.equal(plan.status, 200);
  await plan.arrayBuffer();
});

test('a problem that only the computation finds is the answer of the job', async () => {
  const broken = { ...validBody(), hidden_states: tensor([4, 4], () => Number.NaN) };
  const response = await outcome(await locationOf(await begin(pack(broken))));
  assert.equal(response.status, 422);
  assert.match(((await response.json()) as { type: string }).type, /not-finite$/);
});

test('a problem of the request itself is answered at once', async () => {
  const response = await begin(pack({ hidden_states: 1 }));
  assert.equal(response.status, 422);
  await response.arrayBuffer();
});

test('progress while it computes, for its owner only; DELETE stops it', async () => {
  const location = await locationOf(await begin(endlessBody()));
  // Its one head is computed in float64 by one worker.
  await metricIsFor('loragrad_workers_busy', 1);
  const response = await ask(location);
  assert.equal(response.status, 202);
  const progress = (await response.json()) as { status: string; elapsed_ms: number };
  assert.equal(progress.status, 'running');
  assert.ok(progress.elapsed_ms > 0);
  for (const method of ['GET', 'DELETE']) {
    const foreign = await ask(location, method, 'two');
    assert.equal(foreign.status, 404);
    await foreign.arrayBuffer();
  }
  assert.equal((await ask(location, 'DELETE')).status, 204);
  assert.equal((await ask(location)).status, 404);
  await metricIsFor('loragrad_workers_busy', 0);
  await metricIsFor('loragrad_inflight_bytes', 0);
  await metricIsFor('loragrad_inflight_requests', 0);
});

test('beyond the limit of jobs: 429, and room again when one is deleted, and all the time for others', async () => {
  const small = pack(validBody());
  const held = [await locationOf(await begin(small)), await locationOf(await begin(small))];
  const refused = await begin(small);
  assert.equal(refused.status, 429);
  assert.equal(((await refused.json()) as { limit: number }).limit, 2);
  const ofOther = await locationOf(await begin(small, '/gradient', by('two')));
  assert.equal((await ask(ofOther, 'DELETE', 'two')).status, 204);
  assert.equal((await ask(held[0]!, 'DELETE')).status, 204);
  const third = await locationOf(await begin(small));
  for (const location of [held[1]!, third]) {
    assert.equal((await ask(location, 'DELETE')).status, 204);
  }
  await metricIsFor('loragrad_inflight_bytes', 0);
});

const metricIsFor = (name: string, value: number) => metricIs(server.url, name, value, by('one'));
