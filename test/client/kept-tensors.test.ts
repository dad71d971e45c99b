/** Tensors that a client keeps: sent once, sent again when forgotten, sent along when they do not fit. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Client,
  type GradientAnswer,
  type KeptTensor,
  ServiceUnreachableError,
} from 'loragrad-client';
import { type Layer, randomLayer } from '../support/client-problem.js';
import { countingProxy } from '../support/processes/counting-proxy.js';
import { sharedServer, startServer } from '../support/processes/server.js';

const WIDTH = 32;
const layer = randomLayer(16, WIDTH);
const { weights, step } = layer;
const WEIGHT_BYTES = 4 * WIDTH * WIDTH;

type Kept = readonly [KeptTensor, KeptTensor, KeptTensor];
const keep = (client: Client, { weights }: Layer = layer) =>
  weights.map((weight) => client.keep(weight)) as unknown as Kept;

let widths = WIDTH;
/** A layer that no service has any tensor of. */
const another = () => randomLayer(16, ++widths);

/** A client that notes every request as 'PUT 201'. */
function noting(url: string): { client: Client; seen: string[]; count(what: string): number } {
  const seen: string[] = [];
  const fetch: typeof globalThis.fetch = async (input, init) => {
    const response = await globalThis.fetch(input, init);
    seen.push(`${init?.method} ${response.status}`);
    return response;
  };
  const count = (what: string) => seen.filter((one) => one === what).length;
  return { client: new Client(url, { fetch }), seen, count };
}

const forget = async (url: string, kept: KeptTensor) => {
  const digest = (await kept.name())?.slice('sha256:'.length);
  return fetch(`${url}/tensors/${digest}`, { method: 'DELETE' });
};

const gradients = ({ gradients }: GradientAnswer) => gradients;

const server = await sharedServer();
const plain = await new Client(server.url).gradient(step(1));

test('sent with the first step, referred to afterwards; the answers are the same', async () => {
  const { client, seen } = noting(server.url);
  const kept = keep(client);
  assert.deepEqual(gradients(await client.gradient(step(1, kept))), gradients(plain));
  assert.deepEqual(seen.splice(0).sort(), [
    ...Array(3).fill('HEAD 404'),
    'POST 200',
    ...Array(3).fill('PUT 201'),
  ]);
  await client.gradient(step(2, kept));
  await client.plan(step(3, kept));
  assert.deepEqual(seen, ['POST 200', 'POST 200']);
});

test('another client finds them there', async () => {
  const { client, seen } = noting(server.url);
  await client.gradient(step(4, keep(client)));
  assert.deepEqual(seen, ['HEAD 200', 'HEAD 200', 'HEAD 200', 'POST 200']);
});

test('forgotten by the service: 409, sent again, repeated', async () => {
  const { client, seen } = noting(server.url);
  const kept = keep(client);
  await client.gradient(step(1, kept));
  await forget(server.url, kept[0]);
  await forget(server.url, kept[2]);
  seen.length = 0;
  assert.deepEqual(gradients(await client.gradient(step(1, kept))), gradients(plain));
  assert.deepEqual(
    [seen[0], seen.slice(1, -1).sort(), seen.at(-1)],
    ['POST 409', ['HEAD 404', 'HEAD 404', 'PUT 201', 'PUT 201'], 'POST 200'],
  );
});

test('calls at the same time share one upload', async () => {
  const layer = another();
  const { client, count } = noting(server.url);
  const kept = keep(client, layer);
  const answers = await Promise.all(
    Array.from({ length: 6 }, () => client.gradient(layer.step(1, kept))),
  );
  const expected = gradients(await client.gradient(layer.step(1)));
  for (const answer of answers) assert.deepEqual(gradients(answer), expected);
  assert.equal(count('PUT 201'), 3);
  assert.equal(count('POST 200'), 7);
});

test('one call given up does not take the upload from the other', async () => {
  const layer = another();
  const client = new Client(server.url);
  const kept = keep(client, layer);
  const given = new AbortController();
  const first = client.gradient(layer.step(1, kept), { signal: given.signal });
  const second = client.gradient(layer.step(1, kept));
  given.abort();
  await assert.rejects(first, { name: 'AbortError' });
  assert.deepEqual(gradients(await second), gradients(await client.gradient(layer.step(1))));
});

test('an upload that failed is tried again by the next call', async () => {
  let broken = true;
  const fetch: typeof globalThis.fetch = async (input, init) => {
    if (broken && init?.method === 'PUT') throw new TypeError('fetch failed');
    return globalThis.fetch(input, init);
  };
  const layer = another();
  const client = new Client(server.url, { fetch, retries: 0 });
  const kept = keep(client, layer);
  await assert.rejects(client.gradient(layer.step(1, kept)), ServiceUnreachableError);
  broken = false;
  const expected = gradients(await client.gradient(layer.step(1)));
  assert.deepEqual(gradients(await client.gradient(layer.step(1, kept))), expected);
});

test('a store with room for one of three: what had to make room travels with the request', async () => {
  const fresh = await startServer({ LORAGRAD_STORE_BYTES: String(1.5 * WEIGHT_BYTES + 1024) });
  const { client, seen } = noting(fresh.url);
  const kept = keep(client);
  for (let k = 0; k < 3; k++) {
    assert.deepEqual(gradients(await client.gradient(step(1, kept))), gradients(plain));
    assert.equal(seen.at(-1), 'POST 200');
  }
  await fresh.close();
});

test('a store with room for none', async () => {
  const fresh = await startServer({ LORAGRAD_STORE_BYTES: '1024' });
  const { client, seen, count } = noting(fresh.url);
  const kept = keep(client);
  assert.deepEqual(gradients(await client.gradient(step(1, kept))), gradients(plain));
  assert.equal(count('PUT 413'), 3);
  seen.length = 0;
  await client.gradient(step(2, kept));
  assert.deepEqual(seen, ['POST 200'], 'it is not tried again');
  await fresh.close();
});

test('bfloat16 is rounded once and kept as such', async () => {
  const client = new Client(server.url);
  const bfloat16 = weights.map((weight) => ({ ...weight, dtype: 'bfloat16' as const }));
  const kept = bfloat16.map((weight) => client.keep(weight)) as unknown as Kept;
  const [one, two, three] = bfloat16;
  const sent = await client.gradient(step(1, [one, two, three]));
  assert.deepEqual(gradients(await client.gradient(step(1, kept))), gradients(sent));
  assert.equal(kept[0].wire.data.length, WEIGHT_BYTES / 2);
});

test('bytes on the wire: frozen weights are sent once', async (t) => {
  const fresh = await startServer();
  const proxy = await countingProxy(fresh.url);
  // Frozen weights of 3 MiB, states and adapters of 0.5 MiB a step.
  const layer = randomLayer(128, 512, 8);
  const client = new Client(proxy.url);
  const perStep = async (first: number, kept?: Kept) => {
    const bytes: number[] = [];
    for (let k = first; k < first + 4; k++) {
      await client.gradient(layer.step(k, kept));
      bytes.push(proxy.sent());
    }
    return bytes;
  };
  const plainBytes = await perStep(10);
  const kept = layer.weights.map((weight) => client.keep(weight)) as unknown as Kept;
  const keptBytes = await perStep(20, kept);
  t.diagnostic(`bytes sent a step, without: ${plainBytes.join(', ')}`);
  t.diagnostic(`bytes sent a step, with kept weights: ${keptBytes.join(', ')}`);
  const frozen = 3 * 4 * 512 * 512;
  const step = 2 * 4 * 128 * 512 + 4 * 4 * 8 * 512;
  for (const bytes of plainBytes) assert.ok(bytes > frozen + step);
  assert.ok(keptBytes[0] > frozen + step && keptBytes[0] < frozen + step + 8192);
  for (const bytes of keptBytes.slice(1)) {
    assert.ok(bytes > step && bytes < step + 2048, String(bytes));
  }
  await proxy.close();
  await fresh.close();
});
