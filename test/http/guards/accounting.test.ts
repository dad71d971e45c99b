/** Every request is accounted for once: in the metrics and in one line of the log. */
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { sharedServer } from '../../support/processes/server.js';
import { endlessBody, pack, validBody } from '../../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';

const server = await sharedServer();

/** Values of the metrics whose name and labels begin so, summed. */
async function metric(start: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => line.startsWith(start))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}
/** A figure that goes on to grow, as that of jobs does when a job has parts, may never be seen at the value itself. */
async function reaches(start: string, value: number): Promise<void> {
  while ((await metric(start)) < value) await new Promise((resolve) => setTimeout(resolve, 5));
}

const GONE = 'loragrad_problems_total{type="client-gone"}';
const gone499 =
  'loragrad_http_request_duration_seconds_count{method="POST",route="/gradient",status="499"}';

function send(body: Uint8Array, announced = body.length) {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    `POST /gradient HTTP/1.1\r\nhost: x\r\ncontent-type: ${MSGPACK}\r\ncontent-length: ${announced}\r\n\r\n`,
  );
  socket.write(body);
  return socket;
}

test('a client that leaves in the middle of its upload is counted', async () => {
  const before = await metric(GONE);
  const socket = send(Buffer.alloc(1000), 100_000);
  await reaches('loragrad_inflight_bytes', 1000);
  socket.destroy();
  await reaches(GONE, before + 1);
  await reaches(gone499, before + 1);
});

test('a client that leaves in the middle of the computation is counted', async () => {
  const before = await metric(GONE);
  const socket = send(endlessBody());
  await reaches('loragrad_jobs', 1);
  socket.destroy();
  await reaches(GONE, before + 1);
  await reaches('loragrad_cancelled_total{reason="client-gone"}', 1);
});

test('an answer is counted by method, with its error, and tells where the time went', async () => {
  const gradients = 'loragrad_gradients_total{method="exact"';
  const before = await metric(gradients);
  const response = await server.post('/gradient', pack(validBody()), MSGPACK, '*/*');
  assert.equal(response.status, 200);
  assert.match(
    response.headers.get('server-timing') ?? '',
    /^queue;dur=[\d.]+, decode;dur=[\d.]+, plan;dur=[\d.]+, compute;dur=[\d.]+, encode;dur=[\d.]+, total;dur=[\d.]+$/,
  );
  assert.equal(await metric(gradients), before + 1);
  assert.ok((await metric('loragrad_estimated_error_ratio_count{method="exact"}')) > 0);
  assert.ok((await metric('loragrad_memory_bytes{kind="resident"}')) > 1e7);
  assert.equal(await metric('loragrad_build_info{'), 1);
});

test('what Node cannot parse and what Fastify cannot route are counted too', async () => {
  const bad = 'loragrad_problems_total{type="bad-request"}';
  const before = await metric(bad);
  await fetch(`${server.url}/%`);
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write('hello\r\n\r\n');
  await reaches(bad, before + 2);
  socket.destroy();
});
