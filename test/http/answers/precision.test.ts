/** What an answer says of its own error, and what happens where float32 ends. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ProblemDetails } from '../../../src/errors.js';
import { encodedTensor } from '../../../workers/tensor/encoded.js';
import { narrowTensor, widenEncoded } from '../../../workers/tensor/narrow.js';
import { distance, norm } from '../../kernels/run.js';
import { sharedServer } from '../../support/processes/server.js';
import { type Body, pack, spoilt, tensor } from '../../support/wire/bodies.js';
import { decodeAnswer } from '../../support/wire/dialects.js';

const MSGPACK = 'application/vnd.msgpack';

const server = await sharedServer();

const values = ({ dtype, shape, data }: Body) =>
  widenEncoded(encodedTensor(dtype, shape, new Uint8Array(data)));

/** Puts the adapters in float64. */
function inDouble(body: Body): void {
  for (const name of ['q_proj', 'v_proj']) {
    for (const key of ['lora_A', 'lora_B']) {
      const { shape, data } = body[name][key];
      const single = new Float32Array(new Uint8Array(data).buffer);
      const wide = Buffer.from(Float64Array.from(single).buffer);
      body[name][key] = { dtype: 'float64', shape, data: wide };
    }
  }
}

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
    inDouble(body);
  });
  assert.match(fine.reason, /float64/);
  assert.doesNotMatch(coarse.reason, /float64/);
  assert.equal(fine.fallback, false);
  assert.ok(fine.error['q_proj.lora_A'].estimate.upper < 1e-12);
});

test('a tolerance below the rounding of the answer is refused, with the dtype that rounds', async () => {
  const { status, bytes } = await ask((body) => {
    body.tolerance = 1e-9;
  });
  assert.equal(status, 422);
  const { type, detail } = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  assert.match(type, /tolerance-missed$/);
  assert.match(detail, /_proj\.lora_[AB] is off by .* when it is rounded to float32/);
});

/** The body with its adapters in bfloat16, and grad_output of the given size. */
const halfAdapters = (dtype: 'bfloat16' | 'float16', size: number) => (body: Body) => {
  const { target: _, ...rest } = body;
  for (const key of Object.keys(body)) delete body[key];
  Object.assign(body, rest, { grad_output: tensor([4, 2], (k) => size * Math.cos(k)) });
  for (const name of ['q_proj', 'v_proj']) {
    for (const [key, shape] of [
      ['lora_A', [1, 4]],
      ['lora_B', [2, 1]],
    ] as const) {
      const filled = Float64Array.from({ length: shape[0] * shape[1] }, (_, k) => Math.sin(k + 1));
      const { bytes } = narrowTensor(filled, dtype, shape);
      body[name][key] = { dtype, shape, data: Buffer.from(bytes) };
    }
  }
};

test('the error figures hold for what is sent in bfloat16', async () => {
  const change = halfAdapters('bfloat16', 1);
  const half = await answer(change);
  const whole = await answer((body) => {
    change(body);
    body.outputs_dtype = 'float32';
  });
  for (const name of ['q_proj', 'v_proj']) {
    for (const key of ['lora_A', 'lora_B']) {
      assert.equal(half.gradients[name][key].dtype, 'bfloat16');
      assert.equal(whole.gradients[name][key].dtype, 'float32');
      const [sent, better] = [half, whole].map((one) => values(one.gradients[name][key]));
      const off = distance(sent!, better!) / norm(better!);
      const [upper, least] = [half, whole].map((one) => one.error[`${name}.${key}`].estimate.upper);
      assert.ok(
        off <= upper && upper < (off + 2 * least) / (1 - 2 * off),
        `${name}.${key}: off ${off}, upper ${upper}`,
      );
      assert.ok(off > 10 * least, 'bfloat16 rounds');
    }
  }
});

test('a tolerance that bfloat16 cannot keep is refused, and kept in float32', async () => {
  const change = (body: Body) => {
    halfAdapters('bfloat16', 1)(body);
    body.tolerance = 1e-4;
  };
  const { status, bytes } = await ask(change);
  assert.equal(status, 422);
  const { detail } = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  assert.match(detail, /rounded to bfloat16.*outputs_dtype float32/);
  const { error } = await answer((body) => {
    change(body);
    body.outputs_dtype = 'float32';
  });
  for (const { estimate } of Object.values<Body>(error)) assert.ok(estimate.upper <= 1e-4);
});

test('a gradient beyond float16 is refused, never infinity', async () => {
  const change = halfAdapters('float16', 1e6);
  const { status, bytes } = await ask(change);
  assert.equal(status, 422);
  const { type, detail } = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  assert.match(type, /not-finite$/);
  assert.match(detail, /_proj\.lora_[AB] has \d numbers? too large for float16/);
  const { gradients } = await answer((body) => {
    change(body);
    body.outputs_dtype = 'float32';
  });
  assert.ok(values(gradients.v_proj.lora_B).every(Number.isFinite));
});

test('a gradient that float16 rounds to zero is refused by auto', async () => {
  const { status, bytes } = await ask(halfAdapters('float16', 1e-9));
  assert.equal(status, 422);
  assert.match(Buffer.from(bytes).toString(), /rounded to float16/);
});

test('numbers too large for float32 are computed in float64, not answered as NaN', async () => {
  const { fallback, reason, gradients } = await answer((body) => {
    body.hidden_states = tensor([4, 4], (k) => 1e30 * Math.sin(k));
    for (const name of ['q_proj', 'k_proj']) body[name].weight = tensor([2, 4], () => 1e-35);
    body.q_proj.lora_B = tensor([2, 1], () => 1e-35);
    body.v_proj.lora_A = tensor([1, 4], () => 1e-30);
    inDouble(body);
  });
  assert.equal(fallback, true);
  assert.match(reason, /too large for float32/);
  assert.ok(gradients.v_proj);
});

test('where float32 misses the tolerance float64 has its part of that error, and says so', async () => {
  const tolerance = 1e-3;
  const { fallback, reason, error } = await answer((body) => {
    body.hidden_states = tensor([4, 4], (k) => 300 * Math.sin(k + 1));
    body.tolerance = tolerance;
    inDouble(body);
  });
  assert.equal(fallback, true);
  assert.match(reason, /In float32 the error is up to/);
  // Rows are saturated: a gradient may be zero.
  const figures = Object.values<Body>(error).flatMap(({ estimate }) => estimate ?? []);
  assert.ok(figures.length > 0);
  for (const { upper } of figures) assert.ok(upper >= 2 ** -29 * tolerance && upper < tolerance);
});

test('a gradient that is zero but for rounding is answered, and its rounding has no figure', async () => {
  for (const tolerance of [1e-2, 1e-6]) {
    const { gradients, error } = await answer((body) => {
      // Every key has the same value: which of them a query looks at makes no difference.
      body.hidden_states = tensor([4, 4], (k) => (k % 4 < 2 ? Math.sin(k) : 0.3));
      for (const [name, columns] of [
        ['q_proj', [0, 1]],
        ['v_proj', [2, 3]],
      ] as const) {
        const only = (k: number) => (columns.some((c) => c === k % 4) ? Math.cos(k) : 0);
        body[name].weight = tensor([2, 4], only);
        body[name].lora_A = tensor([1, 4], only);
      }
      body.tolerance = tolerance;
    });
    for (const key of ['lora_A', 'lora_B']) {
      assert.ok(norm(values(gradients.q_proj[key])) < 1e-14, 'rounding alone');
      assert.equal(error[`q_proj.${key}`].estimate, null);
      assert.ok(error[`v_proj.${key}`].estimate.upper < tolerance);
    }
  }
});

test('a gradient of zeros keeps any tolerance', async () => {
  // Row 0 alone has a gradient, and sees one key: whatever its query is.
  const { gradients, error } = await answer((body) => {
    body.is_causal = true;
    delete body.target;
    body.grad_output = tensor([4, 2], (k) => (k < 2 ? 1 : 0));
    body.tolerance = 1e-9;
    inDouble(body);
  });
  assert.equal(norm(values(gradients.q_proj.lora_A)), 0);
  assert.equal(error['q_proj.lora_A'].estimate, null);
  assert.ok(norm(values(gradients.v_proj.lora_A)) > 0);
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

test('the error figures hold for numbers of which float32 has few digits', async () => {
  const ofSize = (size: number) => (body: Body) => {
    delete body.target;
    body.hidden_states = tensor([99, 4]);
    body.grad_output = tensor([99, 2], (k) => size * ((k % 7) - 2));
    body.method = 'exact';
  };
  // Gradients are linear in it: these are the same, but for their rounding.
  const tiny = 2 ** -138;
  const [whole, small] = [await answer(ofSize(1)), await answer(ofSize(tiny))];
  let worst = 0;
  for (const name of ['q_proj', 'v_proj']) {
    for (const key of ['lora_A', 'lora_B']) {
      const [sent, truth] = [small, whole].map((one) => values(one.gradients[name][key]));
      const scaled = truth!.map((x) => x * tiny);
      const off = distance(sent!, scaled) / norm(scaled);
      const { upper } = small.error[`${name}.${key}`].estimate;
      assert.ok(off <= upper, `${name}.${key}: off ${off}, upper ${upper}`);
      worst = Math.max(worst, off);
    }
  }
  assert.ok(worst > 1e-5, 'digits are lost');
});
