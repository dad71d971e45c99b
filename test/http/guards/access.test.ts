import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { connect } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { ApiKeys } from '../../../src/http/access/api-keys.js';
import { readTls, renewTls } from '../../../src/http/access/tls.js';
import { startServer } from '../../support/processes/server.js';
import { sha256 } from '../../support/references.js';
import { pack, tensor, validBody } from '../../support/wire/bodies.js';

const ONE = 'a-key-of-sixteen-and-more';
const TWO = 'another-key-as-long-as-it';
const MSGPACK = 'application/vnd.msgpack';

const nameOf = (keys: ApiKeys, key: string) => keys.holderOf(key)?.name ?? null;

test('keys are told apart by name; a wrong one has none', () => {
  const keys = new ApiKeys(`one:${ONE}, two:${TWO}`, '');
  assert.equal(keys.open, false);
  assert.deepEqual(
    [ONE, TWO, 'nobody', ''].map((key) => nameOf(keys, key)),
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
  assert.equal(nameOf(keys, ONE), 'one');
  writeFileSync(file, `two:${TWO}\n`);
  utimesSync(file, 1, 1);
  let now = performance.now() + 60_000;
  // One mock: of two, the first would stay.
  context.mock.method(performance, 'now', () => now);
  assert.deepEqual([nameOf(keys, ONE), nameOf(keys, TWO)], [null, 'two']);
  // An empty file lets nobody in.
  writeFileSync(file, '');
  now += 60_000;
  assert.deepEqual([nameOf(keys, TWO), keys.open], [null, false]);
});

test('a file of keys that takes the place of another with the same times is seen', (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'keys-'));
  const [file, next] = [join(folder, 'keys'), join(folder, 'next')];
  for (const [at, text] of [
    [file, `one:${ONE}\n`],
    [next, `two:${TWO}\n`],
  ] as const) {
    writeFileSync(at, text);
    utimesSync(at, 1, 1);
  }
  const keys = new ApiKeys('', file);
  renameSync(next, file);
  const now = performance.now() + 60_000;
  context.mock.method(performance, 'now', () => now);
  assert.deepEqual([nameOf(keys, ONE), nameOf(keys, TWO)], [null, 'two']);
});

test('a file of keys that is of no use is told once, and the keys of before hold', (context) => {
  const file = join(mkdtempSync(join(tmpdir(), 'keys-')), 'keys');
  writeFileSync(file, `one:${ONE}\n`);
  const told: string[] = [];
  const keys = new ApiKeys('', file, ({ message }) => told.push(message));
  let now = performance.now();
  context.mock.method(performance, 'now', () => now);
  const look = () => {
    now += 60_000;
    assert.equal(nameOf(keys, ONE), 'one');
  };
  writeFileSync(file, 'rubbish\n');
  utimesSync(file, 1, 1);
  look();
  look();
  rmSync(file);
  look();
  look();
  assert.equal(told.length, 2);
  assert.match(told[0]!, /^Entry 1 of LORAGRAD_API_KEYS_FILE/);
  assert.match(told[1]!, /^ENOENT/);
});

test('with keys: none, 401; health and pages are open; each has a store of its own', async () => {
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
    const open = ['/health/ready', '/', '/docs/', '/docs/static/index.html', '/docs/json'];
    for (const path of [...open, '/openapi.json', '/favicon.ico', '/robots.txt']) {
      assert.equal((await ask(path)).status, 200, path);
    }
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
  const server = await startServer({ LORAGRAD_HOSTS: 'Gradients.example' });
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
    assert.equal(await statusOf('GRADIENTS.EXAMPLE:80'), 200);
    assert.equal(await statusOf('evil.example'), 421);
  } finally {
    await server.close();
  }
});

test('quotas of a key: requests and bytes a minute, and what it keeps; another key has its own', async (context) => {
  const now = performance.now();
  // Whoever has anything left may ask, and a quota fills up with every millisecond.
  context.mock.method(performance, 'now', () => now);
  const body = new Uint8Array(pack(validBody()));
  const server = await startServer({
    LORAGRAD_API_KEYS: `few:${ONE} requests=2,small:${TWO} bytes=${body.length} stored=5000`,
  });
  const ask = (path: string, key: string, init: RequestInit) =>
    fetch(server.url + path, {
      ...init,
      headers: { 'content-type': MSGPACK, 'x-api-key': key },
    });
  const post = async (key: string) => {
    const response = await ask('/plan', key, { method: 'POST', body });
    const wait = Number(response.headers.get('retry-after'));
    return [response.status, wait > 0 && wait <= 60, await response.text()] as const;
  };
  try {
    assert.deepEqual(
      [(await post(ONE))[0], (await post(ONE))[0], (await post(TWO))[0]],
      [200, 200, 200],
    );
    for (const [key, what] of [
      [ONE, /quota-exceeded.*2 requests a minute/],
      [TWO, /quota-exceeded.*bytes of bodies a minute/],
    ] as const) {
      const [status, waits, text] = await post(key);
      assert.deepEqual([status, waits], [429, true]);
      assert.match(text, what);
    }
    assert.equal((await ask('/limits', ONE, {})).status, 200);
  } finally {
    await server.close();
  }
});

test('pages have the headers of helmet; they can be closed, and metrics and health be on a port of their own', async () => {
  const open = await startServer();
  const page = await fetch(`${open.url}/docs/`);
  assert.equal(page.status, 200);
  assert.equal(page.headers.get('x-content-type-options'), 'nosniff');
  assert.equal(page.headers.get('referrer-policy'), 'no-referrer');
  assert.equal(page.headers.get('strict-transport-security'), null);
  await open.close();

  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const { port } = free.address() as AddressInfo;
  free.close();
  await once(free, 'close');
  const closed = await startServer({
    LORAGRAD_DOCS: 'false',
    LORAGRAD_METRICS_PORT: String(port),
  });
  try {
    for (const path of ['/', '/docs', '/docs/', '/guide/', '/openapi.json', '/metrics']) {
      assert.equal((await fetch(closed.url + path)).status, 404, path);
    }
    const metrics = await fetch(`http://127.0.0.1:${port}/metrics`);
    assert.match(await metrics.text(), /^loragrad_workers 1$/m);
    for (const path of ['/health/live', '/health/ready']) {
      assert.equal((await fetch(`http://127.0.0.1:${port}${path}`)).status, 200, path);
    }
    assert.equal((await fetch(`http://127.0.0.1:${port}/gradient`)).status, 404);
  } finally {
    await closed.close();
  }
});

test('HTTPS: a certificate is renewed while the server runs; a bad one changes nothing', async (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  const folder = mkdtempSync(join(tmpdir(), 'tls-'));
  const fixture = (name: string) =>
    fileURLToPath(new URL(`../../../../test/fixtures/tls/${name}`, import.meta.url));
  const files = { cert: join(folder, 'crt'), key: join(folder, 'key') };
  let changes = 0;
  const install = (name: string) => {
    copyFileSync(fixture(`${name}.crt`), files.cert);
    copyFileSync(fixture(`${name}.key`), files.key);
    utimesSync(files.cert, ++changes, changes);
  };
  install('one');
  const server = createTlsServer(readTls(files));
  let failures = 0;
  renewTls(server, files, () => failures++);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const subject = async () => {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
    await once(socket, 'secureConnect');
    const { CN } = socket.getPeerCertificate().subject;
    socket.destroy();
    return CN;
  };
  const look = () => context.mock.timers.tick(10_000);
  assert.equal(await subject(), 'one.example');
  install('two');
  look();
  assert.equal(await subject(), 'two.example');
  writeFileSync(files.cert, 'no certificate');
  look();
  assert.deepEqual([await subject(), failures], ['two.example', 1]);
  server.close();
});
