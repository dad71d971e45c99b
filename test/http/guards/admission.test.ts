import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { httpRequest } from '../../../bench/support/http-load.js';
import type { ProblemDetails } from '../../../src/errors.js';
import { longRequest, metricIs, unfinishedRequest } from '../../support/processes/held.js';
import { sharedServer } from '../../support/processes/server.js';
import { putTensor, sha256 } from '../../support/references.js';
import { pack, tensor, validBody } from '../../support/wire/bodies.js';
import type { WireTensor } from '../../support/wire/wire-tensor.js';

const MSGPACK = 'application/vnd.msgpack';
const LIMIT = 8_000_000;
const body = pack(validBody());

const server = await sharedServer({
  LORAGRAD_MAX_REQUESTS: '2',
  LORAGRAD_MAX_INFLIGHT_BYTES: String(LIMIT),
  LORAGRAD_PATIENCE_MS: '2000',
});

const post = (bytes: Uint8Array) => server.post('/gradient', bytes, MSGPACK, '*/*');
const until = (name: string, value: number) => metricIs(server.url, name, value);
const figuresOf = async (response: Response) => {
  const { limit, actual } = (await response.json()) as ProblemDetails;
  return [limit, actual];
};

test('too many requests: 429 with Retry-After, before the body is read, and room again afterwards', async () => {
  const held = [longRequest(server.url), longRequest(server.url)];
  await until('loragrad_inflight_requests', 2);
  const refused = await post(body);
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get('retry-after')) > 1, 'the work ahead takes longer');
  assert.deepEqual(await figuresOf(refused), [2, 3]);
  for (const socket of held) socket.destroy();
  await until('loragrad_inflight_requests', 0);
  assert.equal((await post(body)).status, 200);
});

test('a place that becomes free within a moment goes to who waits for it', async () => {
  const held = [longRequest(server.url), longRequest(server.url)];
  await until('loragrad_inflight_requests', 2);
  const waiting = post(body);
  await until('loragrad_waiting_requests', 1);
  for (const socket of held) socket.destroy();
  assert.equal((await waiting).status, 200);
  await until('loragrad_inflight_requests', 0);
});

test('a request whose client leaves while it waits leaves nothing behind', async () => {
  const held = [longRequest(server.url), longRequest(server.url)];
  await until('loragrad_inflight_requests', 2);
  const impatient = longRequest(server.url);
  await until('loragrad_waiting_requests', 1);
  impatient.destroy();
  await until('loragrad_waiting_requests', 0);
  for (const socket of held) socket.destroy();
  await until('loragrad_inflight_requests', 0);
});

test('where too many wait for a place the next are refused at once, and their connections go on', async () => {
  const held = [longRequest(server.url), longRequest(server.url)];
  await until('loragrad_inflight_requests', 2);
  const { port } = new URL(server.url);
  const sockets = Array.from({ length: 24 }, () => connect(Number(port), '127.0.0.1'));
  const send = async (socket: Socket, request: Buffer) => {
    socket.write(request);
    let answer = '';
    while (!answer.endsWith('}')) answer += String((await once(socket, 'data'))[0]);
    return answer;
  };
  const bytes = httpRequest('POST', '/gradient', { contentType: MSGPACK, bytes: body });
  const answers = await Promise.all(sockets.map((socket) => send(socket, bytes)));
  for (const answer of answers) {
    assert.match(answer, /^HTTP\/1.1 429 .*queue-full/s);
    assert.match(answer, /^retry-after: \d+\r$/m);
    const [, id] = /^x-request-id: (\S+)\r$/m.exec(answer) ?? [];
    const details = answer.slice(answer.indexOf('\r\n\r\n') + 4);
    assert.equal((JSON.parse(details) as ProblemDetails).instance, id);
    assert.match(answer, new RegExp(`^content-length: ${details.length}\r$`, 'm'));
  }
  assert.ok(answers.some((answer) => /"limit":8,"actual":9/.test(answer)));
  const limits = httpRequest('GET', '/limits', undefined, 'application/json');
  for (const socket of sockets) {
    assert.match(await send(socket, limits), /^HTTP\/1.1 200 /);
    socket.destroy();
  }
  for (const socket of held) socket.destroy();
  await until('loragrad_inflight_requests', 0);
});

test('too many bytes: 429 that names both figures', async () => {
  const held = unfinishedRequest(server.url, LIMIT - 1000);
  await until('loragrad_inflight_bytes', LIMIT - 1000);
  const refused = await post(Buffer.alloc(2000));
  assert.equal(refused.status, 429);
  assert.deepEqual(await figuresOf(refused), [LIMIT, LIMIT + 1000]);
  held.destroy();
  await until('loragrad_inflight_bytes', 0);
});

test('nothing is held on a promise: bodies that were announced and do not come keep nobody out', async () => {
  const { port } = new URL(server.url);
  const silent = Array.from({ length: 8 }, () => {
    const socket = connect(Number(port), '127.0.0.1');
    socket.on('error', () => {});
    socket.write(
      `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: ${MSGPACK}\r\ncontent-length: ${LIMIT / 2}\r\n\r\nx`,
    );
    return socket;
  });
  const answers = silent.map((socket) => once(socket, 'data'));
  assert.equal((await post(body)).status, 200);
  // And they are cut off, with an answer.
  for (const [answer] of await Promise.all(answers)) {
    assert.match(String(answer), /^HTTP\/1.1 408 .*request-timeout/s);
  }
  await until('loragrad_inflight_bytes', 0);
});

test('a client is not blamed for the time in which the service did not read', async () => {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  const bytes = httpRequest('POST', '/gradient', { contentType: MSGPACK, bytes: body });
  socket.write(bytes.subarray(0, -100));
  await until('loragrad_inflight_bytes', body.length - 100);
  socket.write(bytes.subarray(-100));
  // The service is in this process: for longer than its patience nothing is read.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500);
  const [answer] = await once(socket, 'data');
  assert.match(String(answer), /^HTTP\/1.1 200 /);
  socket.destroy();
});

test('a body that could never be let in is too large, not too much for now', async () => {
  const response = await post(Buffer.alloc(2 * LIMIT));
  assert.equal(response.status, 413);
  assert.deepEqual((await figuresOf(response))[0], LIMIT);
});

test('a refused body is received for a moment: clients that send first and listen then get the answer', async () => {
  const { port } = new URL(server.url);
  const socket = connect(Number(port), '127.0.0.1');
  const head = `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: ${MSGPACK}\r\ncontent-length: 20000000\r\n\r\n`;
  socket.write(head);
  await new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.write(Buffer.alloc(20_000_000), resolve);
  });
  const [answer] = await once(socket, 'data');
  assert.match(String(answer), /^HTTP\/1.1 413 /);
  socket.destroy();
});

test('the rest of a refused body is not read for ever', async () => {
  const socket = unfinishedRequest(server.url, 3 * LIMIT);
  const [answer] = await once(socket, 'data');
  assert.match(String(answer), /^HTTP\/1.1 413 /);
  await once(socket, 'close');
});

test('an answer that nobody reads is not kept for ever', async () => {
  // More than what fits between the two ends of a connection.
  const numbers = tensor([1_500_000]) as WireTensor;
  const put = await putTensor(server.url, numbers);
  assert.equal(put.status, 201);
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.pause();
  socket.write(`GET /tensors/${sha256(numbers)} HTTP/1.1\r\nhost: x\r\n\r\n`);
  await until('loragrad_inflight_bytes', numbers.data.length);
  await until('loragrad_inflight_bytes', 0);
  socket.destroy();
});

test('what does not compute is never refused', async () => {
  const held = [longRequest(server.url), longRequest(server.url)];
  await until('loragrad_inflight_requests', 2);
  assert.equal((await fetch(`${server.url}/health/ready`)).status, 200);
  assert.equal((await fetch(`${server.url}/limits`)).status, 200);
  for (const socket of held) socket.destroy();
  await until('loragrad_inflight_requests', 0);
});

test('without Content-Length (chunked) the bytes are counted as they come', async () => {
  const chunks = async function* () {
    yield new Uint8Array(body.subarray(0, 100));
    yield new Uint8Array(body.subarray(100));
  };
  const response = await fetch(`${server.url}/gradient`, {
    method: 'POST',
    headers: { 'content-type': MSGPACK },
    // biome-ignore lint/suspicious/noExplicitAny: a generator is a body to Node, the DOM types lag
    body: chunks() as any,
    duplex: 'half',
  } as RequestInit);
  assert.equal(response.status, 200);
});

test('without Content-Length a body of several blocks arrives whole', async () => {
  const numbers = tensor([1_000_000]) as WireTensor;
  const bytes = pack(numbers as object);
  const chunks = async function* () {
    for (let at = 0; at < bytes.length; at += 300_000) {
      yield new Uint8Array(bytes.subarray(at, at + 300_000));
    }
  };
  const put = await fetch(`${server.url}/tensors/${sha256(numbers)}`, {
    method: 'PUT',
    headers: { 'content-type': MSGPACK },
    // biome-ignore lint/suspicious/noExplicitAny: as above
    body: chunks() as any,
    duplex: 'half',
  } as RequestInit);
  assert.equal(put.status, 201, 'its digest is that of what was sent');
});

test('a body in very many tiny pieces is refused, and its connection is cut off', async () => {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: ${MSGPACK}\r\ntransfer-encoding: chunked\r\n\r\n`,
  );
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('1\r\nx\r\n'.repeat(5000));
  const [answer] = await once(socket, 'data');
  assert.match(String(answer), /^HTTP\/1.1 400 /);
  socket.write('1\r\nx\r\n'.repeat(100_000));
  await closed;
  await until('loragrad_inflight_bytes', 0);
});

test('requests that follow each other on a connection (pipelining) hold nothing when it closes', async () => {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  const bytes = httpRequest('POST', '/gradient', { contentType: MSGPACK, bytes: body });
  socket.write(Buffer.concat(Array.from({ length: 20 }, () => bytes)));
  await once(socket, 'data');
  socket.destroy();
  await until('loragrad_waiting_requests', 0);
  await until('loragrad_inflight_requests', 0);
  await until('loragrad_inflight_bytes', 0);
});
