/** Tensors of PUT /tensors at one API node are known to the others of its queue, within quotas and for their time. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type GradientRequest, loadFixtures } from '../support/fixtures.js';
import type { RunningServer } from '../support/processes/server.js';
import { putTensors, sha256, withReferences } from '../support/references.js';
import { tensor } from '../support/wire/bodies.js';
import { DIALECTS } from '../support/wire/dialects.js';
import type { WireTensor } from '../support/wire/wire-tensor.js';
import { ALICE, apiNodes, BOB } from './api-nodes.js';
import { withoutStore } from './store.js';

/** Nothing else of these tests takes so long. */
const TTL_MS = 20_000;
/** Bytes of a tensor of 1024 numbers in the store, and so many of Bob's are kept. */
const SIZE = 4 * 1024 + 1024;
const BOBS = 3;

const skip = withoutStore;
const settings = { LORAGRAD_QUEUE_TTL_MS: String(TTL_MS) };
const keys = { LORAGRAD_API_KEYS: `alice:${ALICE},bob:${BOB} stored=${BOBS * SIZE}` };
const cluster = apiNodes(
  ...[settings, settings, { ...settings, ...keys }, { ...settings, ...keys }],
);
const { nodes } = cluster;

const numbers = (from: number, length = 1024): WireTensor =>
  tensor([length], (k) => from + k) as unknown as WireTensor;

const ask = (node: RunningServer, one: WireTensor, method = 'HEAD', key = '') =>
  fetch(`${node.url}/tensors/${sha256(one)}`, { method, headers: { 'x-api-key': key } });

const put = (node: RunningServer, one: WireTensor, key = '') => {
  const { contentType, encode } = DIALECTS.tensors;
  return fetch(`${node.url}/tensors/${sha256(one)}`, {
    method: 'PUT',
    headers: { 'content-type': contentType, 'x-api-key': key },
    body: new Uint8Array(encode(one as unknown as GradientRequest)),
  });
};

test('a reference to what another node was sent: the same answer, bit by bit', {
  skip,
}, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  for (const name of ['self-qv', 'bfloat16', 'float64']) {
    const { request } = loadFixtures().find((one) => one.name.startsWith(name))!;
    await putTensors(a.url, request);
    const [expected, found] = [
      await a.gradient(request),
      await b.gradient(withReferences(request)),
    ];
    assert.deepEqual(found.gradients, expected.gradients);
  }
});

test('PUT, HEAD, GET and DELETE at any node', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const one = numbers(1, 3_000_000);
  assert.equal((await put(a, one)).status, 201);
  assert.equal((await put(b, one)).status, 204);
  const other = numbers(2);
  assert.equal((await ask(b, other)).status, 404);
  await put(a, other);
  assert.equal((await ask(b, other)).status, 200);
  const got = await ask(b, one, 'GET');
  assert.equal(got.status, 200);
  const bytes = Buffer.from(await got.arrayBuffer());
  assert.ok(bytes.includes(Buffer.from(one.data)), 'the data is another one');
  assert.equal((await ask(b, one, 'DELETE')).status, 204);
  while ((await ask(a, one)).status === 200) await pause(10);
  assert.equal((await ask(b, one)).status, 404);
  assert.equal((await ask(b, one, 'DELETE')).status, 404);
});

test('each key has tensors of its own, and beyond its quota the oldest make room at all nodes', {
  skip,
}, async () => {
  const [, , c, d] = nodes as [unknown, unknown, RunningServer, RunningServer];
  const mine = Array.from({ length: BOBS + 1 }, (_, k) => numbers(10 + k));
  const [first, ...others] = mine as [WireTensor, ...WireTensor[]];
  assert.equal((await put(c, first, BOB)).status, 201);
  assert.equal((await ask(d, first, 'HEAD', ALICE)).status, 404);
  assert.equal((await ask(d, first, 'HEAD', BOB)).status, 200);
  for (const one of others) assert.equal((await put(c, one, BOB)).status, 201);
  assert.equal((await ask(d, first, 'HEAD', BOB)).status, 404);
  for (const one of others) assert.equal((await ask(d, one, 'HEAD', BOB)).status, 200);
  // What is deleted leaves its room to another.
  assert.equal((await ask(d, others[0]!, 'DELETE', BOB)).status, 204);
  assert.equal((await put(c, first, BOB)).status, 201);
  for (const one of [first, ...others.slice(1)]) {
    assert.equal((await ask(d, one, 'HEAD', BOB)).status, 200);
  }
});

test('what is not used is forgotten by the store after its time, what is used is not', {
  skip,
}, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const [used, unused] = [numbers(100), numbers(101)];
  await put(a, used);
  await put(a, unused);
  const admin = new Redis(cluster.store.url);
  const keyOf = async (one: WireTensor) => (await admin.keys(`*:${sha256(one)}`))[0]!;
  // By the node that has it: the others are told all the same, again and again.
  for (const _ of ['once', 'later']) {
    await admin.persist(await keyOf(used));
    while ((await admin.pttl(await keyOf(used))) < 0) {
      assert.equal((await ask(a, used)).status, 200);
      await pause(TTL_MS / 100);
    }
    assert.ok((await admin.pttl(await keyOf(used))) <= TTL_MS);
  }
  const key = await keyOf(unused);
  const left = await admin.pttl(key);
  assert.ok(left > 0 && left <= TTL_MS, `${left} ms`);
  await admin.pexpire(key, 1);
  while (await admin.exists(key)) await pause(1);
  assert.equal((await ask(b, unused)).status, 404);
  admin.disconnect();
});

test('a full store: 503 with Retry-After, and what it has is not lost', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const kept = numbers(200);
  await put(a, kept);
  const admin = new Redis(cluster.store.url);
  await admin.config('SET', 'maxmemory', '2mb');
  const refused = numbers(201, 2_000_000);
  const response = await put(a, refused);
  assert.equal(response.status, 503);
  assert.ok(Number(response.headers.get('retry-after')) > 0);
  assert.equal((await ask(a, refused)).status, 404);
  assert.equal((await ask(b, kept)).status, 200);
  await admin.config('SET', 'maxmemory', '0');
  assert.equal((await put(a, refused)).status, 201);
  assert.equal((await ask(b, refused)).status, 200);
  admin.disconnect();
});

test('a store that takes nothing now is as good as none', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const kept = numbers(400);
  await put(a, kept);
  const admin = new Redis(cluster.store.url);
  await admin.config('SET', 'min-replicas-to-write', '1');
  const one = numbers(401);
  assert.equal((await put(a, one)).status, 201);
  assert.equal((await ask(a, one)).status, 200);
  assert.equal((await ask(b, one)).status, 404);
  await admin.config('SET', 'min-replicas-to-write', '0');
  assert.equal((await ask(b, kept)).status, 200);
  admin.disconnect();
});

test('a tensor of which the store has lost a part can be sent again', { skip }, async () => {
  const [a, b] = nodes as [RunningServer, RunningServer];
  const one = numbers(500);
  await put(a, one);
  const admin = new Redis(cluster.store.url);
  const [key] = await admin.keys(`*:${sha256(one)}`);
  await admin.hdel(key!, '0');
  assert.equal((await ask(b, one, 'GET')).status, 404);
  assert.equal((await put(b, one)).status, 201);
  assert.equal(await admin.hexists(key!, '0'), 1);
  admin.disconnect();
});

test('without the store a node has what it was sent', { skip }, async () => {
  const [a] = nodes as [RunningServer];
  await cluster.store.kill();
  const one = numbers(300);
  assert.equal((await put(a, one)).status, 201);
  assert.equal((await ask(a, one)).status, 200);
  await cluster.store.start();
});
