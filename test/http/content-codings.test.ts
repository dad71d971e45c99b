/** Compressed bodies and answers. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { get } from 'node:http';
import { test } from 'node:test';
import zlib from 'node:zlib';
import type { ProblemDetails } from '../../src/errors.js';
import { sharedServer, startServer } from '../support/processes/server.js';
import { pack, tensor, validBody } from '../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';
const LIMIT = 1_000_000;
const body = pack(validBody());
/** Of Node 22.15 and later, which the types do not know. */
interface WithZstd {
  readonly zstdCompressSync?: (data: Uint8Array, options?: object) => Buffer;
  readonly zstdDecompressSync: (data: Uint8Array) => Buffer;
  readonly constants: { readonly ZSTD_c_windowLog: number };
}
const { zstdCompressSync, zstdDecompressSync, constants } = zlib as unknown as WithZstd;
const CODINGS = [
  { coding: 'gzip', compress: zlib.gzipSync, expand: zlib.gunzipSync },
  ...(zstdCompressSync
    ? [{ coding: 'zstd', compress: zstdCompressSync, expand: zstdDecompressSync }]
    : []),
];

const server = await sharedServer({ LORAGRAD_MAX_BODY_BYTES: String(LIMIT) });

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

for (const { coding, compress } of CODINGS) {
  test(`a body in ${coding} that expands beyond the limit is given up there`, async () => {
    const bomb = compress(Buffer.alloc(256 * 2 ** 20));
    assert.ok(bomb.length < LIMIT);
    const before = process.memoryUsage().rss;
    const response = await post(bomb, coding);
    const problem = (await response.json()) as ProblemDetails;
    assert.equal(response.status, 413);
    assert.equal(problem.limit, LIMIT);
    assert.ok((problem.actual as number) < 2 * LIMIT, `expanded to ${problem.actual}`);
    assert.ok(process.memoryUsage().rss - before < 128 * 2 ** 20);
  });

  for (const [name, spoil] of [
    [`not in ${coding}`, () => body],
    ['cut', (zipped: Buffer) => zipped.subarray(0, -9)],
    ['damaged', (zipped: Buffer) => Buffer.from(zipped).fill(0xff, 6, 20)],
  ] as const) {
    test(`a body announced in ${coding} that is ${name}: 400`, async () => {
      const response = await post(spoil(compress(body)), coding);
      assert.equal(response.status, 400);
      const problem = (await response.json()) as ProblemDetails;
      assert.equal(problem.type, 'urn:loragrad:problem:malformed-body');
      assert.match(problem.detail, new RegExp(coding));
    });
  }
}

test('a body in zstd with a window of more than 8 MiB is refused', {
  skip: !zstdCompressSync && 'this Node has no zstd',
}, async () => {
  const params = { [constants.ZSTD_c_windowLog]: 27 };
  const response = await post(zstdCompressSync!(Buffer.alloc(2 ** 25), { params }), 'zstd');
  assert.equal(response.status, 400);
});

test('answers are compressed when Accept-Encoding prefers it', async () => {
  const plain = await answerTo('/openapi.json', { 'accept-encoding': 'identity' });
  assert.equal(plain.headers['content-encoding'], undefined);
  assert.match(String(plain.headers.vary), /accept-encoding/);
  for (const header of ['gzip', 'GZip;q=0.5', 'br, x;q=0, *;q=0.1', 'identity;q=0, gzip']) {
    const { headers, data } = await answerTo('/openapi.json', { 'accept-encoding': header });
    const name = header.includes('*') && zstdCompressSync ? 'zstd' : 'gzip';
    assert.equal(headers['content-encoding'], name, header);
    assert.equal(Number(headers['content-length']), data.length);
    assert.deepEqual(CODINGS.find(({ coding }) => coding === name)?.expand(data), plain.data);
  }
  for (const header of ['gzip;q=0', 'gzip;q=0.1, identity', 'br']) {
    const { headers } = await answerTo('/openapi.json', { 'accept-encoding': header });
    assert.equal(headers['content-encoding'], undefined, header);
  }
});

for (const { coding, expand } of CODINGS) {
  test(`files of the documentation are compressed as streams in ${coding}`, async () => {
    const path = '/docs/static/swagger-ui.css';
    const plain = await answerTo(path, {});
    const { headers, data } = await answerTo(path, { 'accept-encoding': coding });
    assert.equal(headers['content-encoding'], coding);
    assert.deepEqual(expand(data), plain.data);
  });
}

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
