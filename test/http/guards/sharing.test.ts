/** What one client holds keeps no other out. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test } from 'node:test';
import type { ProblemDetails } from '../../../src/errors.js';
import { Ledger } from '../../../src/http/admission/ledger.js';
import { metricIs } from '../../support/processes/held.js';
import { sharedServer } from '../../support/processes/server.js';
import { pack, tensor, validBody } from '../../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';
const ONE = 'first-key-of-sixteen-letters';
const TWO = 'second-key-of-sixteen-letters';
/** Of the answer to `wide(500)`, with what is said of its head: more than fits between the two ends of a connection. */
const ANSWER = 500 * 6000 * 4 + 360;
const LIMIT = ANSWER + 500;

const server = await sharedServer({
  LORAGRAD_MAX_INFLIGHT_BYTES: String(LIMIT),
  LORAGRAD_API_KEYS: `one:${ONE},two:${TWO}`,
});

/** Few bytes, whose output has many. */
const wide = (length: number) =>
  pack({
    hidden_states: tensor([length, 4]),
    ...{ q_proj: { weight: tensor([4, 4]) }, k_proj: { weight: tensor([4, 4]) } },
    v_proj: { weight: tensor([6000, 4]) },
    method: 'exact',
  });

const authorization = `Bearer ${ONE}`;
const post = (path: string, bytes: Uint8Array, key: string, headers = {}) =>
  fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': MSGPACK, authorization: `Bearer ${key}`, ...headers },
    body: new Uint8Array(bytes),
  });
const until = (name: string, value: number) => metricIs(server.url, name, value, { authorization });

test('an answer that nobody reads keeps no other client out, and its own sends no more than may be in flight', async () => {
  const body = wide(500);
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.pause();
  socket.write(
    `POST /forward HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ONE}\r\ncontent-type: ${MSGPACK}\r\ncontent-length: ${body.length}\r\n\r\n`,
  );
  socket.write(body);
  await until('loragrad_inflight_bytes', ANSWER);
  const refused = await post('/forward', body, ONE);
  assert.equal(refused.status, 429);
  assert.equal(((await refused.json()) as ProblemDetails).limit, LIMIT);
  assert.equal((await post('/gradient', pack(validBody()), TWO)).status, 200);
  socket.destroy();
  await until('loragrad_inflight_bytes', 0);
});

test('an answer that is larger than what may be in flight is refused before it is computed', async () => {
  const refused = await post('/forward', wide(501), ONE);
  assert.equal(refused.status, 422);
  const { limit, actual } = (await refused.json()) as ProblemDetails;
  assert.deepEqual([limit, actual], [LIMIT, ANSWER + 6000 * 4]);
});

test('the answer of a job is in flight as long as anybody reads it, whoever has it already', async () => {
  const begun = await post('/forward', wide(500), ONE, { prefer: 'respond-async' });
  const location = begun.headers.get('location');
  await until('loragrad_inflight_requests', 0);
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.write(`GET ${location} HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\n\r\n`);
  await once(socket, 'readable');
  const whole = await fetch(server.url + location, { headers: { authorization } });
  assert.equal(whole.status, 200);
  await whole.arrayBuffer();
  await until('loragrad_kept_jobs', 0);
  await until('loragrad_inflight_bytes', ANSWER);
  socket.destroy();
  await until('loragrad_inflight_bytes', 0);
});

test('long work of one client is not reckoned as a wait of others, with whom it takes turns', () => {
  const limits = { maxRequests: 64, maxInflightBytes: 1e9, workers: 1, maxWaitSeconds: 100 };
  const ledger = new Ledger(limits, () => {});
  const begin = (client: string) => ledger.enter(client, 0).begin(50, 0);
  for (let k = 0; k < 3; k++) begin('greedy');
  assert.throws(() => begin('greedy'), /Expected wait, seconds: 150/);
  begin('polite');
});
