/** What POST /plan shows of its reasons: head by head, and what was tried. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client } from 'loragrad-client';
import { randomTensor } from '../../support/client-problem.js';
import { sharedServer } from '../../support/processes/server.js';

const server = await sharedServer();
const client = new Client(server.url);

const [L, width, heads] = [1024, 16, 3];

/** Queries of the last head are ten times as large as the others. */
function layer(batch: number) {
  const q = randomTensor(2, [heads * width, width], 0.05);
  q.data.subarray(2 * width * width).forEach((_, k, last) => {
    last[k] *= 10;
  });
  return {
    hidden_states: randomTensor(1, [batch, L, width]),
    q_proj: {
      weight: q,
      lora_A: randomTensor(3, [4, width], 0.1),
      lora_B: randomTensor(4, [heads * width, 4], 0.01),
    },
    k_proj: { weight: randomTensor(5, [heads * width, width], 0.05) },
    v_proj: { weight: randomTensor(6, [heads * width, width], 0.2) },
    num_attention_heads: heads,
    grad_output: randomTensor(7, [batch, L, heads * width]),
  };
}

test('the norms of each head of each batch item, of which the largest decide', async () => {
  const { threshold } = await client.plan(layer(2));
  const places = threshold.heads.map(({ batch_item, head }) => [batch_item, head]);
  assert.deepEqual(places, [
    [0, 0],
    [0, 1],
    [0, 2],
    [1, 0],
    [1, 1],
    [1, 2],
  ]);
  assert.equal(Math.max(...threshold.heads.map(({ gamma }) => gamma)), threshold.gamma);
  for (const name of ['query', 'query_adapter', 'key', 'value'] as const) {
    const all = threshold.heads.map(({ norms }) => norms[name]);
    assert.equal(Math.max(...all), threshold.norms[name], name);
  }
  const [first, , last] = threshold.heads;
  assert.ok(last.norms.query > 5 * first.norms.query);
  assert.ok(last.gamma === last.norms.query && first.norms.key < last.gamma);
});

for (const method of ['exact', 'low_rank'] as const) {
  test(`the answer of /gradient has the same heads, ${method}`, async () => {
    const request = { ...layer(2), tolerance: 0.1 };
    const expected = (await client.plan(request)).threshold.heads;
    const { threshold } = await client.gradient({ ...request, method });
    assert.equal(threshold.heads.length, expected.length);
    for (const [k, { norms, ...head }] of threshold.heads.entries()) {
      assert.equal(head.below_threshold, expected[k].below_threshold);
      for (const [name, value] of Object.entries(expected[k].norms)) {
        const shown = norms[name as keyof typeof norms];
        assert.ok(Math.abs(shown - value) <= 1e-5 * value, `${name} of ${k}: ${shown}, ${value}`);
      }
    }
  });
}

test('without a low-rank plan the heads are there, too', async () => {
  const wide = 320;
  const weight = randomTensor(1, [wide, wide], 0.01);
  const { threshold, plan } = await client.plan({
    hidden_states: randomTensor(2, [32, wide]),
    q_proj: { weight, lora_A: randomTensor(3, [2, wide]), lora_B: randomTensor(4, [wide, 2]) },
    k_proj: { weight },
    v_proj: { weight },
  });
  assert.equal(threshold.heads.length, 1);
  assert.equal(threshold.heads[0].gamma, threshold.gamma);
  assert.deepEqual(plan.tried, []);
  assert.equal(plan.expected_ms.low_rank_linear, null);
});

test('what was tried: more features, more time, in the end less error; time grows at least linearly', async () => {
  const { plan } = await client.plan({ ...layer(1), method: 'low_rank' });
  assert.ok(plan.tried.length >= 2);
  plan.tried.slice(1).forEach(({ features, ms }, k) => {
    assert.ok(features > plan.tried[k].features && ms > plan.tried[k].ms);
  });
  const [first, last] = [plan.tried[0], plan.tried[plan.tried.length - 1]];
  assert.ok((last.error ?? Infinity) < (first.error ?? Infinity));
  const { low_rank, low_rank_linear } = plan.expected_ms;
  assert.ok(low_rank !== null && low_rank_linear !== null);
  assert.ok(low_rank_linear > 0 && low_rank_linear <= low_rank);
});
