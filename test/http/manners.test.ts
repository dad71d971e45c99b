/** What RFC 9110 asks of a server, and what operators and browsers expect of one. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import type { ProblemKind } from '../../src/problem-kinds.js';
import { sharedServer } from '../support/processes/server.js';
import { pack, validBody } from '../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';
const body = new Uint8Array(pack(validBody()));

const server = await sharedServer({
  LORAGRAD_MAX_BODY_BYTES: '100000',
  LORAGRAD_CORS_ORIGINS: 'https://one.example, https://two.example',
});

const ask = (path: string, init: RequestInit = {}) => fetch(server.url + path, init);
const gradient = (headers: Record<string, string>) =>
  ask('/gradient', { method: 'POST', body, headers: { 'content-type': MSGPACK, ...headers } });

/** What comes back for these bytes, until the server closes or falls silent after a whole answer. */
async function raw(text: string, ...more: string[]): Promise<string> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
    const next = more.shift();
    if (next !== undefined) socket.write(next);
    else if (/\r\n\r\n.*\}$/s.test(answer)) socket.end();
  });
  socket.write(text);
  await once(socket, 'close');
  return answer;
}

function assertProblem(answer: string, status: number, kind: ProblemKind): void {
  assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `));
  assert.match(answer, /content-type: application\/problem\+json/i);
  assert.match(answer, /x-request-id: \S+/i);
  assert.match(answer, new RegExp(`"urn:loragrad:problem:${kind}"`));
}

test('a request id is taken over and echoed, also with a problem; an unsafe one is replaced', async () => {
  for (const path of ['/limits', '/nothing', '/%']) {
    const response = await ask(path, { headers: { 'x-request-id': 'job-7/step:12' } });
    assert.equal(response.headers.get('x-request-id'), 'job-7/step:12', path);
    if (!response.ok)
      assert.equal(((await response.json()) as ProblemDetails).instance, 'job-7/step:12');
  }
  for (const unsafe of ['a b', 'x'.repeat(129), '<script>', '"']) {
    const response = await ask('/limits', { headers: { 'x-request-id': unsafe } });
    assert.match(response.headers.get('x-request-id') ?? '', /^[0-9a-f-]{36}$/, unsafe);
  }
});

test('the guide is there, or says what builds it', async () => {
  const response = await ask('/guide/');
  const text = await response.text();
  if (response.ok) assert.match(text, /<html/);
  else assert.match((JSON.parse(text) as ProblemDetails).detail, /npm run docs:site/);
});

for (const [path, allow] of [
  ['/gradient', 'POST'],
  [`/tensors/${'a'.repeat(64)}`, 'GET, HEAD, PUT, DELETE'],
  ['/limits?x=1', 'GET, HEAD'],
  ['/docs/json', 'GET, HEAD'],
] as const) {
  test(`405 with Allow: ${path}, for methods that Node knows and for others`, async () => {
    const response = await ask(path, { method: 'PATCH', body: '{}' });
    assert.equal(response.status, 405);
    assert.equal(response.headers.get('allow'), allow);
    for (const method of ['QUERY', 'BREW']) {
      const answer = await raw(`${method} ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
      assertProblem(answer, 405, 'method-not-allowed');
      assert.match(answer, new RegExp(`allow: ${allow}\r`, 'i'));
    }
  });
}

test('an unknown method at an unknown address: 404', async () => {
  assertProblem(await raw('BREW /coffee HTTP/1.1\r\nHost: x\r\n\r\n'), 404, 'not-found');
});

const long = 'a'.repeat(20_000);
for (const [name, text, status, kind] of [
  ['no HTTP', 'hello\r\n\r\n', 400, 'bad-request'],
  ['a malformed escape', 'GET /% HTTP/1.1\r\nHost: x\r\n\r\n', 400, 'bad-request'],
  ['no Host', 'GET /limits HTTP/1.1\r\n\r\n', 400, 'bad-request'],
  [
    'a negative length',
    'POST /gradient HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n',
    400,
    'bad-request',
  ],
  [
    'two lengths',
    'POST /gradient HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    400,
    'bad-request',
  ],
  [
    'a long header',
    `GET /limits HTTP/1.1\r\nHost: x\r\nX: ${long}\r\n\r\n`,
    431,
    'headers-too-large',
  ],
  ['a long address', `GET /${long} HTTP/1.1\r\nHost: x\r\n\r\n`, 414, 'uri-too-long'],
  [
    'a long parameter',
    `GET /tensors/${'a'.repeat(200)} HTTP/1.1\r\nHost: x\r\n\r\n`,
    414,
    'uri-too-long',
  ],
  [
    'an unknown expectation',
    'GET /limits HTTP/1.1\r\nHost: x\r\nExpect: coffee\r\n\r\n',
    417,
    'expectation-failed',
  ],
] as const) {
  test(`${name}: ${status} as a problem`, async () => assertProblem(await raw(text), status, kind));
}

test('a second answer is not written into the first', async () => {
  const answer = await raw('GET /limits HTTP/1.1\r\nHost: x\r\n\r\n', '\0\0\0\r\n\r\n');
  assert.match(answer, /^HTTP\/1.1 200/);
});

for (const path of ['/gradient', '/forward', '/plan', `/tensors/${'a'.repeat(64)}`]) {
  test(`${path} without a body: a type is asked for, then a body`, async () => {
    const method = path.startsWith('/tensors') ? 'PUT' : 'POST';
    const nothing = await ask(path, { method });
    assert.equal(nothing.status, 415);
    assert.match(nothing.headers.get('accept') ?? '', /application\/vnd\.msgpack/);
    for (const type of [MSGPACK, 'application/json']) {
      const empty = await ask(path, { method, headers: { 'content-type': type } });
      assert.equal(empty.status, 400, type);
    }
    const chunked = `${method} ${path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`;
    assertProblem(await raw(chunked), 415, 'unsupported-media-type');
  });
}

const head = (more: string) =>
  `POST /gradient HTTP/1.1\r\nHost: x\r\nContent-Type: ${MSGPACK}\r\nExpect: 100-continue\r\n${more}\r\n\r\n`;

test('Expect: 100-continue: what would be refused is refused before its body', async () => {
  for (const [more, status] of [
    ['Content-Length: 5000000000', 413],
    ['Content-Length: 10\r\nContent-Encoding: br', 415],
    ['Content-Length: 10\r\nAccept: text/html', 406],
  ] as const) {
    const answer = await raw(head(more));
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), more);
    assert.match(answer, /connection: close/i);
  }
});

test('Expect: 100-continue: what is wanted is asked for', async () => {
  const text = JSON.stringify({ gradient: 1 });
  const answer = await raw(
    head(`Content-Length: ${text.length}`).replace(MSGPACK, 'application/json'),
    text,
  );
  assert.match(answer, /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 422 /);
});

for (const [accept, type] of [
  ['application/json; charset=utf-8', 'application/json; charset=utf-8'],
  ['Application/JSON', 'application/json; charset=utf-8'],
  ['application/json; indent="a,b;q=0"', 'application/json; charset=utf-8'],
  ['text/html, application/*;q=0.5', MSGPACK],
  ['application/json;q=0.2, application/msgpack;q=0.7', 'application/msgpack'],
  [`${MSGPACK};q=0, */*`, 'application/json; charset=utf-8'],
  ['*/*', MSGPACK],
  ['', MSGPACK],
] as const) {
  test(`Accept: ${accept}`, async () => {
    const response = await gradient({ accept });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), type);
    assert.match(response.headers.get('vary') ?? '', /accept\b/i);
  });
}

for (const accept of ['text/html', '*/*;q=0', 'application/json;q=0, text/*']) {
  test(`Accept: ${accept} is refused`, async () => {
    assert.equal((await gradient({ accept })).status, 406);
  });
}

test('pages from the origins of the setting may call, and no others', async () => {
  const preflight = (origin: string) =>
    ask('/gradient', {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'content-type, x-request-id',
      },
    });
  const allowed = await preflight('https://two.example');
  assert.equal(allowed.status, 204);
  assert.equal(allowed.headers.get('access-control-allow-origin'), 'https://two.example');
  assert.match(allowed.headers.get('access-control-allow-headers') ?? '', /x-request-id/);
  const other = await preflight('https://three.example');
  assert.equal(other.headers.get('access-control-allow-origin'), null);
  const answer = await gradient({ origin: 'https://one.example' });
  assert.match(answer.headers.get('access-control-expose-headers') ?? '', /x-request-id/);
});

test('HEAD, icon and robots.txt', async () => {
  for (const path of [
    '/docs',
    '/limits',
    '/health/live',
    '/metrics',
    '/openapi.json',
    '/favicon.ico',
  ]) {
    const response = await ask(path, { method: 'HEAD' });
    assert.equal(response.status, 200, path);
    assert.equal((await response.arrayBuffer()).byteLength, 0);
  }
  assert.match((await ask('/favicon.ico')).headers.get('content-type') ?? '', /svg/);
  assert.match(await (await ask('/robots.txt')).text(), /^User-agent: \*$/m);
});

test('what a DELETE carries has no meaning, whether it could be read or not', async () => {
  for (const body of ['{"a": 1}', '{', pack(validBody()).toString('latin1')]) {
    for (const [path, status] of [
      [`/tensors/${'a'.repeat(64)}`, 404],
      ['/jobs/none', 404],
    ] as const) {
      const headers = { 'content-type': 'application/json' };
      const response = await ask(path, { method: 'DELETE', headers, body });
      assert.equal(response.status, status, await response.text());
    }
  }
});
