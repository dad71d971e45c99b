/** Drawn keys over HTTP: the method and its options, and what the answer says of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, ProblemError } from 'loragrad-client';
import { randomTensor } from '../../support/client-problem.js';
import { sharedServer } from '../../support/processes/server.js';

const server = await sharedServer();
const client = new Client(server.url);

const [L, heads, d, width] = [1200, 2, 16, 24];

const projected = {
  hidden_states: randomTensor(1, [L, width]),
  q_proj: {
    weight: randomTensor(2, [heads * d, width], 0.3),
    lora_A: randomTensor(3, [4, width], 0.2),
    lora_B: randomTensor(4, [heads * d, 4], 0.1),
  },
  k_proj: { weight: randomTensor(5, [heads * d, width], 0.3) },
  v_proj: { weight: randomTensor(6, [heads * d, width], 0.2) },
  num_attention_heads: heads,
  is_causal: true,
  grad_output: randomTensor(7, [L, heads * d]),
};

const states = {
  query: randomTensor(1, [L, heads, d], 1.5),
  key: randomTensor(2, [L, heads, d], 1.5),
  value: randomTensor(3, [L, heads, d]),
  is_causal: true,
  grad_output: randomTensor(7, [L, heads * d]),
};

const inputs = {
  query: randomTensor(8, [L, width]),
  key: randomTensor(9, [L, width]),
  value: randomTensor(10, [L, width]),
};

type Numbers = { readonly data: ArrayLike<number> };

function distance(a: Numbers, b: Numbers): number {
  let [off, all] = [0, 0];
  for (let k = 0; k < a.data.length; k++) {
    off += (a.data[k]! - b.data[k]!) ** 2;
    all += b.data[k]! ** 2;
  }
  return Math.sqrt(off / all);
}

test('a number of keys is a wish for sampled, and the answer says how it was made', async () => {
  const answer = await client.gradient({ ...projected, keys: 100, seed: 3 });
  assert.equal(answer.method, 'sampled');
  assert.equal(answer.error_of, 'gradients');
  assert.equal(answer.plan.sampled!.keys, 100);
  assert.deepEqual(answer.plan.sampled!.coordinates.length, heads);
  const exact = await client.gradient({ ...projected, method: 'exact' });
  assert.equal(exact.error_of, undefined);
  for (const tensor of ['lora_A', 'lora_B'] as const) {
    const off = distance(answer.gradients!.q_proj![tensor], exact.gradients!.q_proj![tensor]);
    const { upper } = answer.error[`q_proj.${tensor}`]!.estimate!;
    assert.ok(off > 1e-4 && off <= upper, `${tensor}: ${off}, at most ${upper}`);
  }
  const again = await client.gradient({ ...projected, keys: 100, seed: 3 });
  assert.deepEqual(again.gradients, answer.gradients);
});

test('a planned run keeps its tolerance', async () => {
  for (const request of [projected, states]) {
    const answer = await client.gradient({ ...request, method: 'sampled', tolerance: 0.3 });
    for (const { estimate } of Object.values(answer.error)) assert.ok(estimate!.upper <= 0.3);
  }
});

test('gradients of the inputs come with it, of projections without an adapter too', async () => {
  const outputs = ['gradients', 'input_gradients'] as const;
  const answer = await client.gradient({ ...projected, keys: 100, seed: 3, outputs });
  assert.equal(answer.method, 'sampled');
  const exact = await client.gradient({ ...projected, method: 'exact', outputs });
  const [drawn, whole] = [answer, exact].map((a) => a.input_gradients!.hidden_states!);
  // No figure says how far it is; with a tenth of the keys it is no stranger to the exact one.
  assert.ok(distance(drawn, whole) < 0.5);
});

test('errors of attention states are those of the weights where their inputs are known', async () => {
  const answer = await client.gradient({ ...states, inputs, keys: 100 });
  assert.equal(answer.error_of, 'weights');
  const without = await client.gradient({ ...states, keys: 100 });
  assert.equal(without.error_of, 'gradients');
});

test('what entered all three projections is given once', async () => {
  const { query: hidden_states } = inputs;
  const [once, thrice] = await Promise.all(
    [{ hidden_states }, { query: hidden_states, key: hidden_states, value: hidden_states }].map(
      (given) => client.gradient({ ...states, inputs: given, keys: 100 }),
    ),
  );
  assert.deepEqual(once!.error, thrice!.error);
});

test('POST /plan shows the draws without making them', async () => {
  const { method, plan } = await client.plan({ ...states, method: 'sampled', tolerance: 0.2 });
  assert.equal(method, 'sampled');
  assert.ok(plan.sampled!.predicted_error <= 0.2);
  assert.ok(plan.expected_ms.sampled! > 0);
});

test('what is not drawn is computed exactly, and the reason says why', async () => {
  const { grad_output, ...layer } = projected;
  const answer = await client.gradient({ ...layer, target: grad_output, method: 'sampled' });
  assert.equal(answer.method, 'exact');
  assert.match(answer.reason, /Sampled needs grad_output/);
  const withSinks = await client.gradient({ ...states, sinks: [1, 1], method: 'sampled' });
  assert.equal(withSinks.method, 'exact');
  assert.match(withSinks.reason, /With sinks sampled needs log_sum_exp/);
});

const refused: Record<string, [request: object, code: string, pointer: string]> = {
  'keys for another method': [
    { ...projected, keys: 5, method: 'low_rank' },
    'conflicting-keys',
    '/keys',
  ],
  'keys and features': [{ ...projected, keys: 5, features: 8 }, 'conflicting-keys', '/keys'],
  'inputs of a layer with projections': [{ ...projected, inputs }, 'conflicting-keys', '/inputs'],
  'inputs of another length': [
    { ...states, inputs: { query: randomTensor(1, [L - 1, width]) } },
    'shape-mismatch',
    '/inputs/query',
  ],
  'inputs of all three projections and of one': [
    { ...states, inputs: { ...inputs, hidden_states: inputs.query } },
    'conflicting-keys',
    '/inputs/query',
  ],
  'cos without sin': [
    { ...states, inputs: { ...inputs, cos: randomTensor(1, [L, d]) } },
    'missing-key',
    '/inputs',
  ],
  'a tolerance that so few keys cannot keep': [
    { ...projected, keys: 1, tolerance: 1e-3 },
    'tolerance-missed',
    '/method',
  ],
};

for (const [name, [request, code, pointer]] of Object.entries(refused)) {
  test(`${name}: refused`, async () => {
    const wrong = client.gradient(request as Parameters<Client['gradient']>[0]);
    await assert.rejects(wrong, (error: unknown) => {
      assert.ok(error instanceof ProblemError, String(error));
      assert.deepEqual([error.type, error.pointer], [`urn:loragrad:problem:${code}`, pointer]);
      return true;
    });
  });
}
