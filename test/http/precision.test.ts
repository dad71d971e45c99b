/** What an answer says of its own error, and what happens where float32 ends. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import { type Body, pack, spoilt, tensor } from '../support/bodies.js';
import { decodeAnswer } from '../support/dialects.js';
import { type RunningServer, startServer } from '../support/server.js';

const MSGPACK = 'application/vnd.msgpack';

let server: RunningServer;
before(async () => {
  server = await startServer();
});
after(() => server.close());

async function ask(change: (body: Body) => void) {
  const response = await server.post('/gradient', pack(spoilt(change)), MSGPACK, MSGPACK);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return { status: response.status, bytes };
}

// biome-ignore lint/suspicious/noExplicitAny: an answer is what the test looks at
async function answer(change: (body: Body) => void): Promise<any> {
  const { status, bytes } = await ask(change);
  assert.equal(status, 200, Buffer.from(bytes).toString());
  return decodeAnswer(bytes, MSGPACK);
}

test('every gradient tensor has an error figure of the size of float32 rounding', async () => {
  const { error } = await answer(() => {});
  assert.deepEqual(Object.keys(error).sort(), [
    'q_proj.lora_A',
    'q_proj.lora_B',
    'v_proj.lora_A',
    'v_proj.lora_B',
  ]);
  for (const { estimate, certificate } of Object.values<Body>(error)) {
    assert.ok(estimate.upper >= estimate.relative);
    assert.ok(estimate.upper > 1e-9 && estimate.upper < 1e-4, `${estimate.upper}`);
    assert.equal(estimate.confidence, 0.99);
    assert.equal(certificate, null);
  }
});

test('a tolerance below what float32 keeps is computed in float64, and says so', async () => {
  const coarse = await answer(() => {});
  const fine = await answer((body) => {
    body.tolerance = 1e-9;
  });
  assert.match(fine.reason, /float64/);
  assert.doesNotMatch(coarse.reason, /float64/);
  assert.equal(fine.fallback, false);
  assert.equal(fine.error['q_proj.lora_A'].estimate, null);
});

test('numbers too large for float32 are computed in float64, not answered as NaN', async () => {
  const { fallback, reason, gradients } = await answer((body) => {
    body.hidden_states = tensor([4, 4], (k) => 1e30 * Math.sin(k));
    for (const name of ['q_proj', 'k_proj']) body[name].weight = tensor([2, 4], () => 1e-35);
    body.q_proj.lora_B = tensor([2, 1], () => 1e-35);
    body.v_proj.lora_A = tensor([1, 4], () => 1e-30);
  });
  assert.equal(fallback, true);
  assert.match(reason, /too large for float32/);
  assert.ok(gradients.v_proj);
});

test('numbers too large for float64 are refused', async () => {
  const { status, bytes } = await ask((body) => {
    const huge = (k: number) => 1e300 * Math.cos(k);
    for (const key of ['hidden_states', 'target']) {
      const { shape } = body[key];
      const values = Float64Array.from({ length: shape[0] * shape[1] }, (_, k) => huge(k));
      body[key] = { dtype: 'float64', shape, data: Buffer.from(values.buffer) };
    }
  });
  assert.equal(status, 422);
  const problem = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  assert.match(problem.detail, /too large even for float64/);
});
