import assert from 'node:assert/strict';
import { mkdtempSync, utimesSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ApiKeys } from '../../src/http/access/api-keys.js';
import { pack, tensor, validBody } from '../support/bodies.js';
import { sha256 } from '../support/references.js';
import { startServer } from '../support/server.js';

const ONE = 'a-key-of-sixteen-and-more';
const TWO = 'another-key-as-long-as-it';
const MSGPACK = 'application/vnd.msgpack';

test('keys are told apart by name; a wrong one has none', () => {
  const keys = new ApiKeys(`one:${ONE}, two:${TWO}`, '');
  assert.equal(keys.open, false);
  assert.deepEqual(
    [ONE, TWO, 'nobody', ''].map((key) => keys.nameOf(key)),
    ['one', 'two', null, null],
  );
  assert.ok(new ApiKeys('', '').open);
});

test('a bad entry is named by its place, and its text is not shown', () => {
  assert.throws(
    () => new ApiKeys(`one:${ONE},secret-without-a-name`, ''),
    (error: Error) => /Entry 2/.test(error.message) && !/secret/.test(error.message),
  );
});

test('a file of keys changes without a restart', (context) => {
  const file = join(mkdtempSync(join(tmpdir(), 'keys-')), 'keys');
  writeFileSync(file, `# of the trainers\none:${ONE}\n`);
  const keys = new ApiKeys('', file);
  assert.equal(keys.nameOf(ONE), 'one');
  writeFileSync(file, `two:${TWO}\n`);
  utimesSync(file, 1, 1);
  const now = performance.now();
  context.mock.method(performance, 'now', () => now + 60_000);
  assert.deepEqual([keys.nameOf(ONE), keys.nameOf(TWO)], [null, 'two']);
  // An empty file lets nobody in.
  writeFileSync(file, '');
  context.mock.method(performance, 'now', () => now + 120_000);
  assert.deepEqual([keys.nameOf(TWO), keys.open], [null, false]);
});

test('with keys: none, 401; health is open; each has a store of its own', async () => {
  const server = await startServer({ LORAGRAD_API_KEYS: `one:${ONE},two:${TWO}` });
  try {
    const ask = (path: string, key?: string, init: RequestInit = {}) =>
      fetch(server.url + path, {
        ...init,
        headers: { 'content-type': MSGPACK, ...(key && { authorization: `Bearer ${key}` }) },
      });
    const body = new Uint8Array(pack(validBody()));
    for (const key of [undefined, 'wrong']) {
      const refused = await ask('/gradient', key, { method: 'POST', body });
      assert.equal(refused.status, 401);
      assert.equal(refused.headers.get('www-authenticate'), 'Bearer');
      assert.match(await refused.text(), /urn:loragrad:problem:unauthorized/);
    }
    assert.equal((await ask('/metrics')).status, 401);
    assert.equal((await ask('/health/ready')).status, 200);
    assert.equal((await ask('/gradient', ONE, { method: 'POST', body })).status, 200);
    const kept = tensor([2]);
    const at = `/tensors/${sha256(kept as never)}`;
    const put = await ask(at, ONE, { method: 'PUT', body: new Uint8Array(pack(kept)) });
    assert.equal(put.status, 201);
    assert.equal((await ask(at, ONE, { method: 'HEAD' })).status, 200);
    assert.equal((await ask(at, TWO, { method: 'HEAD' })).status, 404);
  } finally {
    await server.close();
  }
});

test('with host names: others get 421', async () => {
  const server = await startServer({ LORAGRAD_HOSTS: 'gradients.example' });
  const statusOf = (host: string) =>
    new Promise<number>((resolve, reject) => {
      request(`${server.url}/limits`, { headers: { host } }, (response) => {
        response.resume();
        resolve(response.statusCode as number);
      })
        .on('error', reject)
        .end();
    });
  try {
    assert.equal(await statusOf('gradients.example'), 200);
    assert.equal(await statusOf('evil.example'), 421);
  } finally {
    await server.close();
  }
});
