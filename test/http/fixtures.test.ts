/**
 * The answers of the running service against PyTorch's autograd in float64.
 *
 * The yardstick is the error that plain float32 PyTorch makes on the same request: a float32 kernel may
 * be a few times worse, since it adds in another order. Half-precision adapters get their gradients
 * rounded to half precision, which comes on top.
 */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { finiteDifferences, inputDifferences } from '../support/finite-differences.js';
import {
  type Fixture,
  loadFixtures,
  PROJECTIONS,
  STATES,
  type StatesName,
} from '../support/fixtures.js';
import { plainProblem } from '../support/plain-loss.js';
import { type GradientAnswer, sharedServer } from '../support/processes/server.js';
import { relativeError, values, type WireTensor } from '../support/wire/wire-tensor.js';

const TIMES_NAIVE = 3;
const FLOAT32_ULP = 2 ** -23;
const FLOOR = 4 * FLOAT32_ULP;
/** Truncation and rounding of the central differences themselves: at most 1e-9 measured. */
const DIFFERENCES = 1e-8;
const PAIR = ['lora_A', 'lora_B'] as const;

const fixtures = loadFixtures();
const server = await sharedServer({ LORAGRAD_WORKERS: '2' });
after(() => {
  console.log(`# worst: ${worst.ratio.toFixed(2)} times the naive float32 error, ${worst.of}`);
});

/** The largest error of a gradient over its naive float32 error, before half-precision rounding. */
const worst = { ratio: 0, of: '' };

function allowed(fixture: Fixture, name: string, truth: Float64Array): number {
  const naive = TIMES_NAIVE * fixture.naive_float32[name];
  // A gradient that is exactly zero stays exactly zero, unless float32 itself leaves a remainder.
  if (truth.every((value) => value === 0)) return naive;
  return naive + FLOOR + (fixture.answer_rounding[name] ?? 0);
}

function assertClose(
  fixture: Fixture,
  name: string,
  measured: WireTensor,
  like: WireTensor,
  truth: Float64Array,
) {
  assert.equal(measured.dtype, like.dtype, name);
  assert.deepEqual(measured.shape, like.shape, name);
  const error = relativeError(values(measured), truth);
  const limit = allowed(fixture, name, truth);
  assert.ok(error <= limit, `${name}: relative error ${error}, allowed ${limit}`);
  const naive = fixture.naive_float32[name];
  if (naive > 0 && /^float(32|64)$/.test(like.dtype) && error / naive > worst.ratio) {
    Object.assign(worst, { ratio: error / naive, of: `${name} of ${fixture.name}` });
  }
}

function assertGradients({ gradients, error }: GradientAnswer, fixture: Fixture) {
  const { request, expected } = fixture;
  assert.ok(gradients);
  assert.deepEqual(Object.keys(gradients).sort(), Object.keys(expected.gradients).sort());
  for (const projection of PROJECTIONS) {
    const truth = expected.gradients[projection];
    if (!truth) continue;
    assert.deepEqual(Object.keys(gradients[projection]!).sort(), PAIR);
    for (const name of PAIR) {
      const measured = gradients[projection]![name];
      const adapter = request[projection][name]!;
      assertClose(fixture, `${projection}.${name}`, measured, adapter, values(truth[name]));
    }
  }
  for (const name of STATES) {
    const truth = expected.gradients[name];
    if (!truth) continue;
    assertClose(fixture, name, gradients[name]!, request[name]!, values(truth));
    const { estimate } = error[name];
    const off = relativeError(values(gradients[name]!), values(truth));
    // One in a hundred may be above its limit, by a little.
    assert.ok(estimate && off <= 1.5 * estimate.upper, `${name}: ${off}, ${estimate?.upper}`);
  }
}

function assertInputGradients({ input_gradients, error }: GradientAnswer, fixture: Fixture) {
  const { request, expected } = fixture;
  if (!expected.input_gradients) return assert.equal(input_gradients, undefined);
  const names = Object.keys(expected.input_gradients) as StatesName[];
  assert.deepEqual(Object.keys(input_gradients!).sort(), names.sort());
  for (const name of names) {
    const truth = values(expected.input_gradients[name]!);
    const label = `input_gradients.${name}`;
    assertClose(fixture, label, input_gradients![name]!, request[name]!, truth);
    assert.ok(label in error, label);
  }
}

function assertLoss({ loss }: GradientAnswer, { expected, naive_float32 }: Fixture) {
  if (expected.loss === undefined) return assert.equal(loss, undefined);
  const error = Math.abs(loss! / expected.loss - 1);
  const limit = TIMES_NAIVE * naive_float32.loss + FLOOR;
  assert.ok(error <= limit, `loss: relative error ${error}, allowed ${limit}`);
}

test('there are fixtures for all that matters', () => {
  assert.ok(fixtures.length >= 40, `${fixtures.length} fixtures`);
});

for (const fixture of fixtures) {
  const { name, request, expected } = fixture;
  test(name, async () => {
    const answer = await server.gradient(request);
    if (request.outputs?.includes('gradients') ?? true) assertGradients(answer, fixture);
    else assert.ok(!('gradients' in answer));
    assertInputGradients(answer, fixture);
    assertLoss(answer, fixture);
    if (expected.attention_output) {
      const objective = (request.target ?? request.grad_output)!;
      const truth = values(expected.attention_output);
      assertClose(fixture, 'attention_output', answer.attention_output!, objective, truth);
    } else assert.ok(!('attention_output' in answer));
    assert.equal(answer.method, 'exact');
    assert.equal(answer.fallback, false);
  });
}

for (const fixture of fixtures.filter(({ expected }) => expected.attention_output)) {
  const { name, request, expected } = fixture;
  test(`${name}: POST /forward`, async () => {
    const answer = await server.forward(request);
    const measured = answer.attention_output!;
    const truth = values(expected.attention_output!);
    assert.equal(
      measured.dtype,
      (request.hidden_states ?? request.query_states ?? request.query)!.dtype,
    );
    assert.deepEqual(measured.shape, expected.attention_output!.shape);
    const rounding = fixture.answer_rounding.forward;
    const limit = TIMES_NAIVE * fixture.naive_float32.attention_output + FLOOR + rounding;
    const error = relativeError(values(measured), truth);
    assert.ok(error <= limit, `relative error ${error}, allowed ${limit}`);
    const { estimate } = answer.error.attention_output;
    assert.ok(estimate && error <= estimate.upper + rounding, `${error}, ${estimate?.upper}`);
    assert.equal(answer.fallback, false);
  });

  test(`${name}: forward and backward agree`, async () => {
    const [forward, backward] = await Promise.all([
      server.forward(request),
      server.gradient({ ...request, outputs: ['attention_output'] }),
    ]);
    const error = relativeError(
      values(forward.attention_output!),
      values(backward.attention_output!),
    );
    assert.ok(
      error <= 2 * (fixture.answer_rounding.forward + fixture.answer_rounding.attention_output),
    );
    assert.deepEqual(forward.threshold, backward.threshold);
  });
}

const tiny = fixtures.filter((fixture) => fixture.finite_differences);
test('a few are small enough for finite differences', () => {
  assert.ok(tiny.length >= 3);
});

for (const fixture of tiny) {
  test(`${fixture.name}: finite differences of the loss`, async () => {
    const { gradients, input_gradients } = await server.gradient(fixture.request);
    for (const name of Object.keys(input_gradients ?? {}) as StatesName[]) {
      const truth = inputDifferences(plainProblem(fixture.request), name);
      const error = relativeError(values(input_gradients![name]!), truth);
      const limit = allowed(fixture, `input_gradients.${name}`, truth) + DIFFERENCES;
      assert.ok(error <= limit, `${name}: ${error}, allowed ${limit}`);
    }
    for (const [projection, pair] of finiteDifferences(plainProblem(fixture.request))) {
      for (const name of PAIR) {
        const error = relativeError(values(gradients![projection]![name]), pair[name]);
        const limit = allowed(fixture, `${projection}.${name}`, pair[name]) + DIFFERENCES;
        assert.ok(error <= limit, `${projection}.${name}: ${error}, allowed ${limit}`);
      }
    }
  });
}
