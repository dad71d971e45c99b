/** Attention states and masks in requests: what is refused, and where; what is answered is in fixtures.test.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../workers/kernels/random.js';
import { sharedServer } from '../support/processes/server.js';

const server = await sharedServer();

/** A nested list of this shape. */
function list(...shape: number[]): unknown {
  const [n, ...rest] = shape;
  if (n === undefined) return 0.5;
  return Array.from({ length: n }, () => list(...rest));
}

const states = {
  ...{ query: list(2, 6, 4, 3), key: list(2, 6, 2, 3), value: list(2, 6, 2, 5) },
  grad_output: list(2, 6, 4, 5),
};
const weight = list(3, 3);
const layer = {
  ...{ hidden_states: list(6, 3), q_proj: { weight }, v_proj: { weight }, grad_output: list(6, 3) },
  k_proj: { weight, lora_A: list(1, 3), lora_B: list(3, 1) },
};

interface Answer {
  readonly type: string;
  readonly pointer: string;
  readonly detail: string;
  readonly method: string;
  readonly reason: string;
  readonly attention_output: number[][];
  readonly gradients: Record<string, unknown>;
  readonly threshold: { readonly norms: Record<string, number> };
}

async function post(path: string, body: unknown) {
  const json = 'application/json';
  const response = await server.post(path, Buffer.from(JSON.stringify(body)), json, json);
  return { status: response.status, body: (await response.json()) as Answer };
}

const refused: Record<string, [object, string, string, RegExp]> = {
  'query without value': [
    { value: undefined },
    'missing-key',
    '',
    /value is missing; query, key and value/,
  ],
  'states and inputs': [
    { hidden_states: list(6, 3) },
    'conflicting-keys',
    '/hidden_states',
    /exclude each other/,
  ],
  'states and rotary tables': [{ cos: list(6, 3) }, 'conflicting-keys', '/cos', /rotated already/],
  'states and input gradients': [
    { outputs: ['input_gradients'] },
    'conflicting-keys',
    '/outputs',
    /gradients of the answer/,
  ],
  'another head width': [
    { key: list(2, 6, 2, 4) },
    'shape-mismatch',
    '/key',
    /\(2, 6, 2, 4\).*d of query \(2, 6, 4, 3\)/,
  ],
  'another key length': [
    { value: list(2, 7, 2, 5) },
    'shape-mismatch',
    '/value',
    /\(2, 7, 2, 5\).*Lk of key \(2, 6, 2, 3\)/,
  ],
  'another batch': [
    { key: list(1, 6, 2, 3) },
    'shape-mismatch',
    '/key',
    /batch must be that of query/,
  ],
  'heads that do not divide': [
    { key: list(2, 6, 3, 3), value: list(2, 6, 3, 5) },
    'shape-mismatch',
    '/key',
    /Hkv = 3 must divide H = 4/,
  ],
  'an objective of another shape': [
    { grad_output: list(2, 6, 4, 4) },
    'shape-mismatch',
    '/grad_output',
    /\(2, 6, 4, 5\)/,
  ],
  'a window of one number': [{ window: [3] }, 'shape-mismatch', '/window', /left and right/],
  'a window that is no integer': [{ window: [3, 0.5] }, 'invalid-value', '/window/1', /0\.5/],
  'a first key behind the last': [
    { first_keys: [0, 7] },
    'invalid-value',
    '/first_keys/1',
    /from 0 to Lk = 6/,
  ],
  'key lengths for another batch': [
    { key_lengths: [6] },
    'shape-mismatch',
    '/key_lengths',
    /\(2,\)/,
  ],
  'sequences with another sum': [
    { sequence_lengths: [2, 3] },
    'invalid-value',
    '/sequence_lengths',
    /sum 5; it must be L = 6/,
  ],
  'sequences of an item with another sum': [
    { sequence_lengths: [[6], [3, 2]] },
    'invalid-value',
    '/sequence_lengths/1',
    /sum 5/,
  ],
  'an empty sequence': [
    { sequence_lengths: [6, 0] },
    'invalid-value',
    '/sequence_lengths/1',
    /from 1/,
  ],
  'sequences for another batch': [
    { sequence_lengths: [[6], [6], [6]] },
    'shape-mismatch',
    '/sequence_lengths',
    /3 lists/,
  ],
  'sequences of cross-attention': [
    { key: list(2, 7, 2, 3), value: list(2, 7, 2, 5), sequence_lengths: [6] },
    ...(['shape-mismatch', '/sequence_lengths', /Lq = 6 and Lk = 7/] as const),
  ],
  'a soft cap of zero': [{ softcap: 0 }, 'invalid-value', '/softcap', /> 0/],
  'sinks of other heads': [{ sinks: [1, 2, 3] }, 'shape-mismatch', '/sinks', /H = 4/],
  'a log-sum-exp of another shape': [
    { log_sum_exp: list(2, 6, 4) },
    'shape-mismatch',
    '/log_sum_exp',
    /\(2, 4, 6\)/,
  ],
  'an output of another shape': [
    { attention_output: list(2, 6, 20) },
    'shape-mismatch',
    '/attention_output',
    /\(2, 6, 4, 5\)/,
  ],
  'low-rank with a window': [
    { window: [3, 0], method: 'low_rank' },
    'limit-exceeded',
    '/method',
    /no mask but/,
  ],
  'low-rank with sinks': [
    { sinks: [1, 2, 3, 4], method: 'low_rank' },
    'limit-exceeded',
    '/method',
    /no sinks/,
  ],
};

for (const [name, [change, kind, pointer, detail]] of Object.entries(refused)) {
  test(`refused: ${name}`, async () => {
    for (const path of ['/gradient', '/plan']) {
      const { status, body } = await post(path, { ...states, ...change });
      assert.equal(status, 422, JSON.stringify(body));
      assert.equal(body.type, `urn:loragrad:problem:${kind}`);
      assert.equal(body.pointer, pointer);
      assert.match(body.detail, detail);
    }
  });
}

test('a log-sum-exp of another forward pass is refused, with its place', async () => {
  // All logits are 0.5 0.5 3 / sqrt(3), of 6 keys.
  const right = Math.log(6) + 0.75 / Math.sqrt(3);
  const rows = Array.from({ length: 2 }, () =>
    Array.from({ length: 4 }, () => new Array(6).fill(right)),
  );
  assert.equal((await post('/gradient', { ...states, log_sum_exp: rows })).status, 200);
  rows[1]![2]![3] = right + 2;
  const { status, body } = await post('/gradient', { ...states, log_sum_exp: rows });
  assert.equal(status, 422);
  assert.equal(body.pointer, '/log_sum_exp');
  assert.match(body.detail, /batch item 1, head 2, row 3/);
});

test('a log-sum-exp without attention states is refused', async () => {
  const { status, body } = await post('/gradient', { ...layer, log_sum_exp: list(1, 6) });
  assert.deepEqual([status, body.pointer], [422, '/log_sum_exp']);
});

test('a layer without one of its projections is refused', async () => {
  const { status, body } = await post('/gradient', { ...layer, k_proj: undefined });
  assert.equal(status, 422);
  assert.deepEqual(
    [body.type, body.detail],
    ['urn:loragrad:problem:missing-key', 'k_proj is missing in the body.'],
  );
});

test('packed sequences are the same rows as sequences by themselves', async () => {
  const inputs = Array.from({ length: 6 }, (_, i) => [Math.sin(i), Math.cos(3 * i), i / 6]);
  const packed = await post('/forward', {
    ...layer,
    grad_output: undefined,
    hidden_states: inputs,
    sequence_lengths: [4, 2],
  });
  const single = await post('/forward', {
    ...layer,
    grad_output: undefined,
    hidden_states: inputs.slice(0, 4),
  });
  assert.equal(packed.status, 200, JSON.stringify(packed.body));
  const rows = packed.body.attention_output.slice(0, 4).flat();
  single.body.attention_output.flat().forEach((x: number, k: number) => {
    assert.ok(Math.abs(x - rows[k]) < 1e-6);
  });
});

test('sequence_lengths are lists of integers or an array of them, of any dtype', async () => {
  const lengths = [4, 2, 1, 5];
  const data = (array: ArrayBufferView) => Buffer.from(array.buffer).toString('base64');
  const shape = [2, 2];
  const arrays = {
    int64: data(BigInt64Array.from(lengths.map(BigInt))),
    uint8: data(Uint8Array.from(lengths)),
    float32: data(Float32Array.from(lengths)),
  };
  const fixed = { ...states, seed: 1, method: 'exact' };
  const lists = await post('/gradient', {
    ...fixed,
    sequence_lengths: [lengths.slice(0, 2), lengths.slice(2)],
  });
  assert.equal(lists.status, 200, JSON.stringify(lists.body));
  for (const [dtype, bytes] of Object.entries(arrays)) {
    const { body } = await post('/gradient', {
      ...fixed,
      sequence_lengths: { dtype, shape, data: bytes },
    });
    assert.deepEqual(body.gradients, lists.body.gradients, dtype);
  }
  const wrong = await post('/gradient', {
    ...fixed,
    sequence_lengths: { dtype: 'int8', shape, data: data(Int8Array.of(4, 2, 1, 4)) },
  });
  assert.deepEqual([wrong.status, wrong.body.pointer], [422, '/sequence_lengths/1']);
});

test('the plan of attention states has their norms, and the reason for exact', async () => {
  const { status, body } = await post('/plan', { ...states, scaling: 4, window: [2, 0] });
  assert.equal(status, 200, JSON.stringify(body));
  const { norms } = body.threshold;
  assert.deepEqual(
    [norms.query, norms.query_frozen, norms.query_adapter, norms.value],
    [1, 1, 0, 0.5],
  );
  assert.match(body.reason, /no mask but/);
});

test('the output alone of attention states: auto takes low_rank where it pays, as no gradient is asked for', async () => {
  const random = new Random(1);
  const rows = (): number[][][] =>
    Array.from({ length: 8192 }, () => [
      Array.from({ length: 4 }, () => Number((random.uniform() - 0.5).toFixed(3))),
    ]);
  const asked = { query: rows(), key: rows(), value: rows(), tolerance: 0.05 };
  const { status, body } = await post('/forward', asked);
  assert.equal(status, 200);
  assert.equal(body.method, 'low_rank', body.reason);
});
