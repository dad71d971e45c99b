/**
 * The answers of the running service against PyTorch's autograd in float64.
 *
 * The yardstick is the error that plain float32 PyTorch makes on the same request: a float32 kernel may
 * be a few times worse, since it adds in another order. Half-precision adapters get their gradients
 * rounded to half precision, which comes on top.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { finiteDifferences } from '../support/finite-differences.js';
import { type Fixture, loadFixtures, PROJECTIONS } from '../support/fixtures.js';
import { plainProblem } from '../support/plain-loss.js';
import { type RunningServer, startServer } from '../support/server.js';
import { relativeError, values, type WireTensor } from '../support/wire-tensor.js';

const TIMES_NAIVE = 3;
const FLOAT32_ULP = 2 ** -23;
const FLOOR = 4 * FLOAT32_ULP;
/** Truncation and rounding of the central differences themselves: at most 1e-9 measured. */
const DIFFERENCES = 1e-8;

const fixtures = loadFixtures();
let server: RunningServer;
before(async () => {
  server = await startServer();
});
after(() => server.close());

function allowed(fixture: Fixture, name: string, truth: Float64Array): number {
  const naive = TIMES_NAIVE * fixture.naive_float32[name];
  // A gradient that is exactly zero stays exactly zero, unless float32 itself leaves a remainder.
  if (truth.every((value) => value === 0)) return naive;
  return naive + FLOOR + (fixture.answer_rounding[name] ?? 0);
}

function assertClose(fixture: Fixture, name: string, measured: WireTensor, expected: WireTensor) {
  const truth = values(expected);
  const error = relativeError(values(measured), truth);
  const limit = allowed(fixture, name, truth);
  assert.ok(error <= limit, `${name}: relative error ${error}, allowed ${limit}`);
}

test('there are fixtures for all that matters', () => {
  assert.ok(fixtures.length >= 40, `${fixtures.length} fixtures`);
});

for (const fixture of fixtures) {
  const { request, expected } = fixture;
  const outputs = request.outputs ?? ['gradients'];

  describe(fixture.name, () => {
    // biome-ignore lint/suspicious/noExplicitAny: the answer is what is tested here
    let answer: any;
    before(async () => {
      answer = await server.gradient(request);
    });

    test('gradients', { skip: !outputs.includes('gradients') && 'not asked for' }, () => {
      assert.deepEqual(
        Object.keys(answer.gradients).sort(),
        Object.keys(expected.gradients).sort(),
      );
      for (const projection of PROJECTIONS) {
        const truth = expected.gradients[projection];
        if (!truth) continue;
        assert.deepEqual(Object.keys(answer.gradients[projection]).sort(), ['lora_A', 'lora_B']);
        for (const tensor of ['lora_A', 'lora_B'] as const) {
          const measured: WireTensor = answer.gradients[projection][tensor];
          const adapter = request[projection][tensor]!;
          assert.equal(measured.dtype, adapter.dtype);
          assert.deepEqual(measured.shape, adapter.shape);
          assertClose(fixture, `${projection}.${tensor}`, measured, truth[tensor]);
        }
      }
    });

    test('loss', () => {
      if (expected.loss === undefined) return assert.ok(!('loss' in answer));
      const error = Math.abs(answer.loss / expected.loss - 1);
      const limit = TIMES_NAIVE * fixture.naive_float32.loss + FLOOR;
      assert.ok(error <= limit, `relative error ${error}, allowed ${limit}`);
    });

    test('attention output', () => {
      if (!expected.attention_output) return assert.ok(!('attention_output' in answer));
      const objective = (request.target ?? request.grad_output)!;
      assert.equal(answer.attention_output.dtype, objective.dtype);
      assert.deepEqual(answer.attention_output.shape, objective.shape);
      assertClose(fixture, 'attention_output', answer.attention_output, expected.attention_output);
    });

    test('method', () => {
      assert.equal(answer.method, 'exact');
      assert.equal(answer.fallback, false);
    });

    test('finite differences', { skip: !fixture.finite_differences && 'too large' }, () => {
      for (const [projection, pair] of finiteDifferences(plainProblem(request))) {
        for (const tensor of ['lora_A', 'lora_B'] as const) {
          const measured = values(answer.gradients[projection][tensor]);
          const error = relativeError(measured, pair[tensor]);
          const limit = allowed(fixture, `${projection}.${tensor}`, pair[tensor]) + DIFFERENCES;
          assert.ok(error <= limit, `${projection}.${tensor}: ${error}, allowed ${limit}`);
        }
      }
    });
  });
}
