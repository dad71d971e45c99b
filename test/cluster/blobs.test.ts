/** Arrays on their way through the store: bytes that several values share travel once, and those that nobody reads do not. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, test } from 'node:test';
import type { Redis } from 'ioredis';
import { Blobs } from '../../src/cluster/blobs.js';
import { connect } from '../../src/cluster/connection.js';
import { open, seal } from '../../src/cluster/envelope.js';
import { type BlobName, CHUNK_BYTES } from '../../src/cluster/names.js';
import { Regions } from '../../src/cluster/regions.js';
import { type Store, startStore, withoutStore } from './store.js';

const skip = withoutStore;
let store: Store;
let connection: Redis;
before(async () => {
  if (skip) return;
  store = await startStore();
  connection = connect(store.url);
});
after(async () => {
  if (skip) return;
  connection.disconnect();
  await store.close();
});

const digest = async (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const aNode = (cacheBytes = 2 ** 28) =>
  new Blobs(connection, { ttlMs: 60_000, cacheBytes, digest });
const opened = (node: Blobs, envelope: Uint8Array) => open(envelope, (part) => node.get(part));

/** Chunks of numbers, of which each is another. */
function numbers(chunks: number): Float32Array {
  const memory = new Float32Array(new SharedArrayBuffer(chunks * CHUNK_BYTES));
  return memory.map((_, k) => k);
}

/** Sends the values together. */
async function sent(node: Blobs, values: readonly object[]): Promise<Buffer[]> {
  const regions = new Regions(values);
  const names = new Map<Uint8Array, Promise<BlobName>>();
  const put = (region: Uint8Array) => {
    const name = names.get(region) ?? node.put(region);
    names.set(region, name);
    return name;
  };
  return Promise.all(values.map((value) => seal(value, put, regions)));
}

test('rows that two parts share are sent once, and a node fetches what its parts read, once', {
  skip,
}, async () => {
  const rows = numbers(3);
  const chunk = rows.length / 3;
  // The first reads two chunks, the second all three.
  const first = { keys: rows.subarray(10, 1.2 * chunk), seed: 1 };
  const second = { queries: rows.subarray(1.2 * chunk), keys: rows.subarray(10), causal: true };
  const sender = aNode();
  const [one, other] = await sent(sender, [first, second]);
  const bytes = rows.byteLength - 40;
  assert.equal(sender.traffic.bytesSent, bytes);
  const receiver = aNode();
  assert.deepEqual(await opened(receiver, one!), first);
  assert.equal(receiver.traffic.bytesReceived, 2 * CHUNK_BYTES);
  assert.deepEqual(await opened(receiver, other!), second);
  assert.equal(receiver.traffic.bytesReceived, bytes);
});

test('rows of different parts that lie side by side are apart', { skip }, async () => {
  const rows = numbers(2).map((x) => -x);
  const half = rows.length / 2;
  const [one] = await sent(aNode(), [
    { rows: rows.subarray(0, half) },
    { rows: rows.subarray(half) },
  ]);
  const receiver = aNode();
  assert.deepEqual(await opened(receiver, one!), { rows: rows.subarray(0, half) });
  assert.equal(receiver.traffic.bytesReceived, rows.byteLength / 2);
});

test('what is larger than a node keeps is fetched once for all who read it at a time', {
  skip,
}, async () => {
  const rows = numbers(2).map((x) => x + 0.5);
  const value = { a: rows, b: rows.subarray(1), c: new Float64Array(rows.buffer, 8) };
  const [envelope] = await sent(aNode(), [value]);
  const receiver = aNode(CHUNK_BYTES);
  assert.deepEqual(await opened(receiver, envelope!), value);
  assert.equal(receiver.traffic.bytesReceived, rows.byteLength);
});

test('what the store has lost is an error, and found again when it is there again', {
  skip,
}, async () => {
  const rows = numbers(1).map((x) => x - 0.5);
  const [envelope] = await sent(aNode(), [{ rows }]);
  await connection.flushall();
  const receiver = aNode();
  await assert.rejects(opened(receiver, envelope!), /not in the store/);
  await sent(aNode(), [{ rows }]);
  assert.deepEqual(await opened(receiver, envelope!), { rows });
});
