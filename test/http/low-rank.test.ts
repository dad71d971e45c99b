/** The low-rank kernel as a client meets it: honest errors, honest refusals, the same bits always. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ProblemDetails } from '../../src/errors.js';
import { DIALECTS, decodeAnswer } from '../support/dialects.js';
import { type GradientRequest, loadFixtures, PROJECTIONS } from '../support/fixtures.js';
import { type RunningServer, startServer } from '../support/server.js';
import { values } from '../support/wire-tensor.js';

const { contentType, encode } = DIALECTS.tensors;

let server: RunningServer;
before(async () => {
  server = await startServer();
});
after(() => server.close());

async function ask(request: object, at = server) {
  const body = encode(request as GradientRequest);
  const response = await at.post('/gradient', body, contentType, contentType);
  return { status: response.status, bytes: new Uint8Array(await response.arrayBuffer()) };
}

function relativeError(measured: Float64Array, truth: Float64Array): number {
  let [difference, norm] = [0, 0];
  for (let k = 0; k < truth.length; k++) {
    difference += (measured[k] - truth[k]) ** 2;
    norm += truth[k] ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

const coverage = { tensors: 0, covered: 0 };

/** Rotary positions and input gradients: not in this kernel. */
const foreign = (request: object) =>
  'cos' in request || ((request as GradientRequest).outputs ?? []).includes('input_gradients');

for (const { name, request, expected, answer_rounding } of loadFixtures()) {
  if (request.outputs && !request.outputs.includes('gradients')) continue;
  if (foreign(request)) continue;
  test(`${name}: 48 features, and the error that the answer admits; or 422`, async (t) => {
    const { status, bytes } = await ask({ ...request, method: 'low_rank', features: 48 });
    if (status === 422) {
      const problem = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
      const exactOnly = request.cos || request.outputs?.includes('input_gradients');
      assert.match(problem.type, exactOnly ? /conflicting-keys$/ : /tolerance-missed$/);
      t.diagnostic(problem.detail);
      return;
    }
    assert.equal(status, 200, Buffer.from(bytes).toString());
    // biome-ignore lint/suspicious/noExplicitAny: an answer is what the test looks at
    const answer = decodeAnswer(bytes, contentType) as any;
    assert.equal(answer.method, 'low_rank');
    for (const projection of PROJECTIONS) {
      const truth = expected.gradients[projection];
      if (!truth) continue;
      for (const part of ['lora_A', 'lora_B'] as const) {
        const tensor = `${projection}.${part}`;
        const { estimate, certificate } = answer.error[tensor];
        const exact = values(truth[part]);
        const error = relativeError(values(answer.gradients[projection][part]), exact);
        const rounding = (answer_rounding[tensor] ?? 0) + 2 ** -20;
        // The figures are relative to the norm of the answer, the error to that of the truth.
        const slack = 1 / Math.max(1e-3, 1 - estimate.upper);
        coverage.tensors++;
        if (error <= estimate.upper * slack + rounding) coverage.covered++;
        else t.diagnostic(`${tensor}: error ${error}, upper limit ${estimate.upper}`);
        if (certificate && certificate.relative < 0.5) {
          assert.ok(error <= 2 * certificate.relative + rounding, `${tensor}: certificate`);
        }
      }
    }
  });
}

test('at least 98 % of the errors lie below the 99 % limit', (t) => {
  const { covered, tensors } = coverage;
  t.diagnostic(`${covered} of ${tensors} tensors`);
  assert.ok(tensors > 100);
  assert.ok(covered >= 0.98 * tensors, `${covered} of ${tensors}`);
});

/** Small logits: far below the threshold. */
const small = () => ({
  ...loadFixtures().find(({ name }) => name === 'long-300')!.request,
  scaling: 0.02,
});

test('a tolerance that was stated and cannot be kept is a 422 that says what can', async () => {
  const request = { ...small(), method: 'low_rank', features: 1, tolerance: 1e-5 };
  const { status, bytes } = await ask(request);
  assert.equal(status, 422);
  const problem = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  assert.match(problem.type, /tolerance-missed$/);
  assert.equal(problem.limit, 1e-5);
  assert.ok((problem.actual as number) > 1e-5);
  assert.match(problem.detail, /A tolerance of .* would do/);
  assert.match(
    problem.detail,
    /the plan expects \d+ features|No number of features that was tried/,
  );
});

test('the number of features that a 422 names keeps the tolerance', async () => {
  const request = { ...small(), method: 'low_rank', tolerance: 0.02 };
  const { status, bytes } = await ask({ ...request, features: 1 });
  assert.equal(status, 422);
  const { detail } = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
  const features = Number(/the plan expects (\d+) features/.exec(detail as string)?.[1]);
  assert.ok(features > 1, detail as string);
  const again = await ask({ ...request, features });
  assert.equal(again.status, 200, Buffer.from(again.bytes).toString());
});

test('the same seed gives the same bits, with one worker or two', async () => {
  const one = await startServer({ LORAGRAD_WORKERS: '1' });
  try {
    const request = { ...small(), method: 'low_rank', features: 32, correction: true, seed: 7 };
    const bits = async (at: RunningServer, seed: number) => {
      const { status, bytes } = await ask({ ...request, seed }, at);
      assert.equal(status, 200, Buffer.from(bytes).toString());
      const { gradients, error } = decodeAnswer(bytes, contentType) as Record<string, unknown>;
      return JSON.stringify([gradients, error]);
    };
    const first = await bits(server, 7);
    assert.equal(await bits(server, 7), first);
    assert.equal(await bits(one, 7), first);
    assert.notEqual(await bits(server, 8), first);
  } finally {
    await one.close();
  }
});

test('options of the low-rank kernel beside method exact are refused', async () => {
  const { status, bytes } = await ask({ ...small(), method: 'exact', features: 8 });
  assert.equal(status, 422);
  assert.match(Buffer.from(bytes).toString(), /conflicting-keys/);
});
