/** Compressed bodies and answers. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { get } from 'node:http';
import { after, before, test } from 'node:test';
import zlib from 'node:zlib';
import type { ProblemDetails } from '../../src/errors.js';
import { pack, tensor, validBody } from '../support/bodies.js';
import { type RunningServer, startServer } from '../support/server.js';

const MSGPACK = 'application/vnd.msgpack';
const LIMIT = 1_000_000;
const body = pack(validBody());
/** Of Node 22.15 and later, which the types do not know. */
const { zstdCompressSync } = zlib as unknown as { zstdCompressSync?: (data: Uint8Array) => Buffer };

let server: RunningServer;
before(async () => {
  server = await startServer({ LORAGRAD_MAX_BODY_BYTES: String(LIMIT) });
});
after(() => server.close());

const post = (data: Uint8Array, coding: string, headers: Record<string, string> = {}) =>
  fetch(`${server.url}/gradient`, {
    method: 'POST',
    headers: { 'content-type': MSGPACK, 'content-encoding': coding, ...headers },
    body: new Uint8Array(data),
  });

/** As it comes over the wire: fetch would expand it. */
function answerTo(path: string, headers: Record<string, string>) {
  return new Promise<{ headers: NodeJS.Dict<string | string[]>; data: Buffer }>(
    (resolve, reject) => {
      get(server.url + path, { headers }, async (response) => {
        const data = Buffer.concat(await response.toArray());
        resolve({ headers: response.headers, data });
      }).on('error', reject);
    },
  );
}

for (const coding of ['gzip', 'GZIP', 'x-gzip', 'identity, gzip']) {
  test(`a body in ${coding} is read`, async () => {
    assert.equal((await post(zlib.gzipSync(body), coding)).status, 200);
  });
}
for (const coding of ['identity', 'Identity', '']) {
  test(`a body in "${coding}" is read as it is`, async () => {
    assert.equal((await post(body, coding)).status, 200);
  });
}

test('a body in zstd is read where this Node has it', async () => {
  if (zstdCompressSync) assert.equal((await post(zstdCompressSync(body), 'zstd')).status, 200);
  else assert.equal((await post(body, 'zstd')).status, 415);
});

for (const coding of ['br', 'deflate', 'gzip, gzip']) {
  test(`a body in ${coding}: 415, and what would be taken`, async () => {
    const response = await post(body, coding);
    assert.equal(response.status, 415);
    const expected = zstdCompressSync ? 'zstd, gzip' : 'gzip';
    assert.equal(response.headers.get('accept-encoding'), expected);
  });
}

test('a body that expands beyond the limit is given up there', async () => {
  const bomb = zlib.gzipSync(Buffer.alloc(256 * 2 ** 20));
  assert.ok(bomb.length < LIMIT);
  const before = process.memoryUsage().rss;
  const response = await post(bomb, 'gzip');
  const problem = (await response.json()) as ProblemDetails;
  assert.equal(response.status, 413);
  assert.equal(problem.limit, LIMIT);
  assert.ok((problem.actual as number) < 2 * LIMIT, `expanded to ${problem.actual}`);
  assert.ok(process.memoryUsage().rss - before < 128 * 2 ** 20);
});

for (const [name, spoil] of [
  ['no gzip', () => body],
  ['cut', (zipped: Buffer) => zipped.subarray(0, -9)],
  ['damaged', (zipped: Buffer) => Buffer.from(zipped).fill(0xff, 12, 20)],
] as const) {
  test(`a body that is ${name}: 400`, async () => {
    const response = await post(spoil(zlib.gzipSync(body)), 'gzip');
    assert.equal(response.status, 400);
    const problem = (await response.json()) as ProblemDetails;
    assert.equal(problem.type, 'urn:loragrad:problem:malformed-body');
    assert.match(problem.detail, /gzip/);
  });
}

test('answers are compressed when Accept-Encoding prefers it', async () => {
  const plain = await answerTo('/openapi.json', { 'accept-encoding': 'identity' });
  assert.equal(plain.headers['content-encoding'], undefined);
  assert.match(String(plain.headers.vary), /accept-encoding/);
  for (const header of ['gzip', 'GZip;q=0.5', 'br, x;q=0, *;q=0.1', 'identity;q=0, gzip']) {
    const { headers, data } = await answerTo('/openapi.json', { 'accept-encoding': header });
    const coding = String(headers['content-encoding']);
    assert.equal(coding, header.includes('*') && zstdCompressSync ? 'zstd' : 'gzip', header);
    assert.equal(Number(headers['content-length']), data.length);
    if (coding === 'gzip') assert.deepEqual(zlib.gunzipSync(data), plain.data);
  }
  for (const header of ['gzip;q=0', 'gzip;q=0.1, identity', 'br']) {
    const { headers } = await answerTo('/openapi.json', { 'accept-encoding': header });
    assert.equal(headers['content-encoding'], undefined, header);
  }
});

test('files of the documentation are compressed as streams', async () => {
  const path = '/docs/static/swagger-ui.css';
  const plain = await answerTo(path, {});
  const { headers, data } = await answerTo(path, { 'accept-encoding': 'gzip' });
  assert.equal(headers['content-encoding'], 'gzip');
  assert.deepEqual(zlib.gunzipSync(data), plain.data);
});

test('a large answer of tensors goes as it is', async () => {
  const kept = tensor([2 ** 19]);
  const digest = createHash('sha256')
    .update(`float32\n${2 ** 19}\n`)
    .update(kept.data)
    .digest('hex');
  const big = await startServer();
  try {
    const put = await fetch(`${big.url}/tensors/${digest}`, {
      method: 'PUT',
      headers: { 'content-type': MSGPACK, 'content-encoding': 'gzip' },
      body: new Uint8Array(zlib.gzipSync(pack(kept))),
    });
    assert.equal(put.status, 201);
    const answer = await fetch(`${big.url}/tensors/${digest}`, {
      headers: { 'accept-encoding': 'gzip' },
    });
    assert.equal(answer.headers.get('content-encoding'), null);
    assert.ok((await answer.arrayBuffer()).byteLength > kept.data.length);
  } finally {
    await big.close();
  }
});
