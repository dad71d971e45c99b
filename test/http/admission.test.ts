import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import { pack, validBody } from '../support/bodies.js';
import { type RunningServer, startServer } from '../support/server.js';

const MSGPACK = 'application/vnd.msgpack';
const body = pack(validBody());

let server: RunningServer;
before(async () => {
  server = await startServer({
    LORAGRAD_MAX_REQUESTS: '2',
    LORAGRAD_MAX_INFLIGHT_BYTES: '100000',
  });
});
after(() => server.close());

const metric = async (name: string) => {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(text.match(new RegExp(`^${name} (\\S+)$`, 'm'))?.[1]);
};
const until = async (name: string, value: number) => {
  while ((await metric(name)) !== value) await new Promise((resolve) => setTimeout(resolve, 2));
};

/** A request that has announced its body and sends nothing of it. */
function silentRequest(bytes: number) {
  const { port } = new URL(server.url);
  const socket = connect(Number(port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: ${MSGPACK}\r\ncontent-length: ${bytes}\r\n\r\n`,
  );
  return socket;
}

test('too many requests: 429 with Retry-After, before the body is read, and room again afterwards', async () => {
  const held = [silentRequest(1000), silentRequest(1000)];
  await until('loragrad_inflight_requests', 2);
  const refused = await server.post('/gradient', body, MSGPACK, '*/*');
  assert.equal(refused.status, 429);
  assert.equal(refused.headers.get('retry-after'), '1');
  const problem = (await refused.json()) as ProblemDetails;
  assert.deepEqual([problem.limit, problem.actual], [2, 3]);
  for (const socket of held) socket.destroy();
  await until('loragrad_inflight_requests', 0);
  assert.equal((await server.post('/gradient', body, MSGPACK, '*/*')).status, 200);
});

test('too many bytes: 429 that names both figures', async () => {
  const held = silentRequest(99_000);
  await until('loragrad_inflight_bytes', 99_000);
  const refused = await server.post('/gradient', Buffer.alloc(2000), MSGPACK, '*/*');
  assert.equal(refused.status, 429);
  const problem = (await refused.json()) as ProblemDetails;
  assert.deepEqual([problem.limit, problem.actual], [100_000, 101_000]);
  held.destroy();
  await until('loragrad_inflight_bytes', 0);
});

test('a body that could never be let in is too large, not too much for now', async () => {
  const response = await server.post('/gradient', Buffer.alloc(200_000), MSGPACK, '*/*');
  assert.equal(response.status, 413);
  assert.deepEqual(((await response.json()) as ProblemDetails).limit, 100_000);
});

test('a refused body is received whole: clients that send first and listen then get the answer', async () => {
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

test('what does not compute is never refused', async () => {
  const held = [silentRequest(1000), silentRequest(1000)];
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
