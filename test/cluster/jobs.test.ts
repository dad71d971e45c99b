/** Jobs of Prefer: respond-async at one API node are told, answered and ended by the others of its queue. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { GradientAnswer, RunningServer } from '../support/processes/server.js';
import { endlessBody, pack, validBody } from '../support/wire/bodies.js';
import { decodeAnswer } from '../support/wire/dialects.js';
import { ALICE, apiNodes, BOB } from './api-nodes.js';
import { largeBody, startApi } from './nodes.js';
import { withoutStore } from './store.js';

const MSGPACK = 'application/vnd.msgpack';

const skip = withoutStore;
const settings = { LORAGRAD_API_KEYS: `alice:${ALICE},bob:${BOB}` };
const cluster = apiNodes(settings, settings);
const { nodes } = cluster;

async function begin(node: { readonly url: string }, body: Uint8Array): Promise<string> {
  const response = await fetch(`${node.url}/gradient`, {
    method: 'POST',
    headers: { 'content-type': MSGPACK, prefer: 'respond-async', 'x-api-key': ALICE },
    body: new Uint8Array(body),
  });
  assert.equal(response.status, 202);
  return response.headers.get('location')!;
}

const ask = (node: RunningServer, location: string, method = 'GET', key = ALICE) =>
  fetch(node.url + location, { method, headers: { 'x-api-key': key } });

/** The first answer that is no progress. */
async function outcome(node: RunningServer, location: string): Promise<Response> {
  for (;;) {
    const response = await ask(node, location);
    if (response.status !== 202) return response;
    await response.arrayBuffer();
    await pause(20);
  }
}

/** Resolves when no node has it: one that still had an answer would wait for somebody to fetch it. */
async function forgotten(location: string): Promise<void> {
  for (const node of nodes) {
    while ((await ask(node, location)).status !== 404) await pause(10);
  }
}

test('another node gives the answer, once, and to its owner alone', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  // The second is longer than what is sent at once.
  for (const body of [pack(validBody()), largeBody(1)]) {
    const location = await begin(a, body);
    assert.equal((await ask(b, location, 'GET', BOB)).status, 404);
    const response = await outcome(b, location);
    assert.equal(response.status, 200);
    const answer = decodeAnswer(new Uint8Array(await response.arrayBuffer()), MSGPACK);
    const again = await outcome(a, await begin(a, body));
    const expected = decodeAnswer(new Uint8Array(await again.arrayBuffer()), MSGPACK);
    const gradients = (x: unknown) => (x as GradientAnswer).gradients;
    assert.deepEqual(gradients(answer), gradients(expected));
    await forgotten(location);
  }
});

test('another node tells progress and problems', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const endless = await begin(a, endlessBody());
  const response = await ask(b, endless);
  assert.equal(response.status, 202);
  assert.ok(Number(response.headers.get('retry-after')) >= 1);
  assert.equal(typeof ((await response.json()) as { fraction: number }).fraction, 'number');
  assert.equal((await ask(b, endless, 'DELETE', BOB)).status, 404);
  assert.equal((await ask(b, endless, 'DELETE')).status, 204);
  const metrics = async () => (await ask(a, '/metrics')).text();
  while (!/^loragrad_workers_busy 0$/m.test(await metrics())) await pause(20);
  const body = { ...validBody(), method: 'low_rank', features: 4, tolerance: 1e-9 };
  const failing = await begin(a, pack(body));
  const failed = await outcome(b, failing);
  assert.equal(failed.status, 422);
  const { type } = (await failed.json()) as { type: string };
  assert.match(type, /:tolerance-missed$/);
  await forgotten(failing);
});

test('an answer that finds the store full is told when there is room', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const location = await begin(a, pack(validBody()));
  const admin = new Redis(cluster.store.url);
  await admin.config('SET', 'maxmemory', '1mb');
  assert.notEqual((await ask(b, location)).status, 404);
  await admin.config('SET', 'maxmemory', '0');
  const response = await outcome(b, location);
  assert.equal(response.status, 200);
  await response.arrayBuffer();
  await forgotten(location);
  admin.disconnect();
});

test('while the store does not answer a job of another node is not said to be gone', {
  skip,
}, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const location = await begin(a, pack(validBody()));
  cluster.store.signal('SIGSTOP');
  const response = await ask(b, location);
  cluster.store.signal('SIGCONT');
  assert.equal(response.status, 503);
  assert.ok(Number(response.headers.get('retry-after')) > 0);
  const later = await outcome(b, location);
  assert.equal(later.status, 200);
  await later.arrayBuffer();
  await forgotten(location);
});

test('a node that is asked to end waits for no answer that the others can give', {
  skip,
}, async () => {
  const [a] = nodes as [RunningServer, RunningServer];
  const patient = { LORAGRAD_DRAIN_MS: '86400000', LORAGRAD_LAME_DUCK_MS: '0' };
  const leaving = await startApi(cluster.store.url, { ...settings, ...patient });
  const location = await begin(leaving, pack(validBody()));
  const busy = await begin(leaving, largeBody(1));
  assert.equal(await leaving.end(), 0);
  for (const one of [location, busy]) {
    const response = await outcome(a, one);
    assert.equal(response.status, 200);
    const answer = decodeAnswer(new Uint8Array(await response.arrayBuffer()), MSGPACK);
    assert.ok((answer as GradientAnswer).gradients);
    await forgotten(one);
  }
});
