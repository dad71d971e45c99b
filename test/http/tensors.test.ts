/** PUT, HEAD, GET and DELETE /tensors/{sha256}. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import { sharedServer } from '../support/processes/server.js';
import { putTensor, reference, sha256 } from '../support/references.js';
import { type AnswerTensor, DIALECTS, decodeAnswer, JSON_TYPE } from '../support/wire/dialects.js';
import { encodeValues, type WireTensor } from '../support/wire/wire-tensor.js';

const STORE_BYTES = 64 * 1024;

const server = await sharedServer({
  LORAGRAD_STORE_BYTES: String(STORE_BYTES),
  LORAGRAD_MAX_JSON_BYTES: '4096',
});

let serial = 0;
/** A tensor that no other test has. */
function fresh(dtype = 'float32', shape = [3, 5]): WireTensor {
  const length = shape.reduce((a, b) => a * b, 1);
  serial += 1;
  const numbers = Float64Array.from({ length }, (_, k) => (k % 61) / 64 + 1 + serial);
  return encodeValues(dtype, shape, numbers);
}

const at = (tensor: WireTensor) => `${server.url}/tensors/${sha256(tensor)}`;

async function problem(response: Response): Promise<ProblemDetails & { kind: string }> {
  assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/);
  const details = (await response.json()) as ProblemDetails;
  return { ...details, kind: details.type.replace(/.*:/, '') };
}

async function get(tensor: WireTensor, accept = '*/*'): Promise<AnswerTensor> {
  const response = await fetch(at(tensor), { headers: { accept } });
  assert.equal(response.status, 200);
  const body = new Uint8Array(await response.arrayBuffer());
  return decodeAnswer(body, response.headers.get('content-type') ?? '') as AnswerTensor;
}

function assertSame(actual: WireTensor, expected: WireTensor) {
  assert.deepEqual(
    { dtype: actual.dtype, shape: actual.shape, bits: [...actual.data] },
    { dtype: expected.dtype, shape: expected.shape, bits: [...expected.data] },
  );
}

for (const dialect of Object.values(DIALECTS)) {
  test(`${dialect.name}: created once, known afterwards, read back, forgotten`, async () => {
    const tensor = fresh();
    assert.equal((await fetch(at(tensor), { method: 'HEAD' })).status, 404);
    assert.equal((await putTensor(server.url, tensor, dialect)).status, 201);
    assert.equal((await putTensor(server.url, tensor, dialect)).status, 204);
    assert.equal((await fetch(at(tensor), { method: 'HEAD' })).status, 200);
    assertSame(await get(tensor), tensor);
    assertSame(await get(tensor, JSON_TYPE), tensor);
    assert.equal((await fetch(at(tensor), { method: 'DELETE' })).status, 204);
    assert.equal((await fetch(at(tensor), { method: 'DELETE' })).status, 404);
    assert.equal((await problem(await fetch(at(tensor)))).kind, 'not-found');
  });
}

for (const dtype of ['float64', 'float32', 'float16', 'bfloat16']) {
  for (const shape of [[], [1], [7], [2, 3, 4]]) {
    test(`${dtype} of shape [${shape}] comes back bit for bit`, async () => {
      const tensor = fresh(dtype, shape);
      assert.equal((await putTensor(server.url, tensor)).status, 201);
      assertSame(await get(tensor), tensor);
    });
  }
}

test('under a digest that is not its own it is refused and not kept', async () => {
  const [tensor, other] = [fresh(), fresh()];
  const refused = await putTensor(server.url, tensor, DIALECTS.tensors, sha256(other));
  assert.equal(refused.status, 422);
  const { kind, detail } = await problem(refused);
  assert.equal(kind, 'digest-mismatch');
  assert.ok(detail.includes(sha256(tensor)) && detail.includes(sha256(other)));
  assert.equal((await fetch(at(other), { method: 'HEAD' })).status, 404);
  // Also when the tensor of that digest is known.
  await putTensor(server.url, other);
  const again = await putTensor(server.url, tensor, DIALECTS.tensors, sha256(other));
  assert.equal(again.status, 422);
  assertSame(await get(other), other);
});

test('NaN is refused by its index', async () => {
  const tensor = encodeValues('float32', [2, 2], Float64Array.of(1, 2, Number.NaN, 4));
  const refused = await problem(await putTensor(server.url, tensor));
  assert.equal(refused.kind, 'not-finite');
  assert.equal(refused.detail, 'The tensor holds NaN at [1, 0] (flat index 2, row-major).');
  assert.equal(refused.pointer, '');
  assert.equal((await fetch(at(tensor), { method: 'HEAD' })).status, 404);
});

test('what is larger than the store is 413, with both figures', async () => {
  const refused = await putTensor(server.url, fresh('bfloat16', [STORE_BYTES / 4]));
  assert.equal(refused.status, 413);
  const { kind, limit, actual } = await problem(refused);
  assert.equal(kind, 'tensor-too-large');
  assert.equal(limit, STORE_BYTES);
  assert.ok((actual as number) > STORE_BYTES);
});

test('bodies that are no tensor', async () => {
  const bodies: [unknown, string][] = [
    [reference(fresh()), 'invalid-tensor'],
    [{}, 'invalid-tensor'],
    [{ weight: fresh() }, 'invalid-tensor'],
    [{ ...fresh(), shape: [4, 4] }, 'invalid-tensor'],
    [{ ...fresh(), dtype: 'int8' }, 'invalid-tensor'],
    [[[1, 2], [3]], 'invalid-tensor'],
    [1, 'invalid-tensor'],
  ];
  for (const [body, kind] of bodies) {
    const refused = await putTensor(server.url, body as WireTensor, undefined, 'a'.repeat(64));
    assert.equal((await problem(refused)).kind, kind, JSON.stringify(body));
  }
});

test('addresses that are no digest', async () => {
  for (const digest of ['abc', 'A'.repeat(64), 'g'.repeat(64), 'a'.repeat(65)]) {
    const refused = await problem(await fetch(`${server.url}/tensors/${digest}`));
    assert.equal(refused.status, 400);
    assert.equal(refused.pointer, undefined);
    assert.match(refused.detail, /^sha256 must match/);
  }
});

test('as JSON no more is answered than may be sent', async () => {
  const tensor = fresh('float32', [2000]);
  await putTensor(server.url, tensor);
  const refused = await fetch(at(tensor), { headers: { accept: JSON_TYPE } });
  assert.equal(refused.status, 406);
  const { limit, actual } = await problem(refused);
  assert.deepEqual([limit, actual], [4096, 8000]);
  assertSame(await get(tensor), tensor);
});

test('the least recently used makes room; HEAD is a use', async () => {
  const tensors = Array.from({ length: 4 }, () => fresh('float32', [4000]));
  for (const tensor of tensors.slice(0, 3)) await putTensor(server.url, tensor);
  await fetch(at(tensors[0]), { method: 'HEAD' });
  await putTensor(server.url, tensors[3]);
  const found = await Promise.all(
    tensors.map(async (tensor) => (await fetch(at(tensor), { method: 'HEAD' })).status),
  );
  assert.deepEqual(found, [200, 404, 200, 200]);
});

test('sent by several clients at the same time it is created once', async () => {
  const tensor = fresh('float32', [3000]);
  const answers = await Promise.all(Array.from({ length: 8 }, () => putTensor(server.url, tensor)));
  const statuses = answers.map(({ status }) => status).sort();
  assert.deepEqual(statuses, [201, ...Array(7).fill(204)]);
  assertSame(await get(tensor), tensor);
});

test('the limit is among the limits, and the contents are among the metrics', async () => {
  const limits = (await (await fetch(`${server.url}/limits`)).json()) as Record<string, number>;
  assert.equal(limits.max_store_bytes, STORE_BYTES);
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  const value = (name: string) => Number(metrics.match(new RegExp(`^${name} (\\S+)$`, 'm'))?.[1]);
  assert.ok(value('loragrad_store_bytes') > 0 && value('loragrad_store_bytes') <= STORE_BYTES);
  assert.ok(value('loragrad_store_tensors') > 0);
  assert.ok(value('loragrad_store_evicted_total') > 0);
});
