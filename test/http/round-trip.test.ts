/**
 * Any valid problem gives the same gradients in whatever dialect it is posted and answered, bit for bit:
 * the numbers are the same, so are the sums.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { GradientRequest } from '../support/fixtures.js';
import { type GradientAnswer, sharedServer } from '../support/processes/server.js';
import { testSeed } from '../support/random.js';
import { randomProblem } from '../support/random-problem.js';
import {
  type AnswerTensor,
  DIALECTS,
  type Dialect,
  decodeAnswer,
  inFloat32,
  JSON_TYPE,
  MSGPACK,
  mapTensors,
} from '../support/wire/dialects.js';
import { encodeValues, values } from '../support/wire/wire-tensor.js';

const RUNS = 20;
const ACCEPTED = [MSGPACK, JSON_TYPE];

const server = await sharedServer();

function dtypesOf(request: GradientRequest): Set<string> {
  const dtypes = new Set<string>();
  mapTensors(request, (tensor) => dtypes.add(tensor.dtype));
  return dtypes;
}

/** Everything but the clock, with -0 as 0, since a number in JSON need not keep the sign of zero. */
function comparable(answer: GradientAnswer): unknown {
  const { timings_ms: _, ...rest } = answer;
  return mapTensors(rest, ({ dtype, shape, data }) => {
    if (dtype === 'float16' || dtype === 'bfloat16') return { dtype, shape, bits: [...data] };
    const numbers = values({ dtype, shape, data }).map((value) => value + 0);
    return { dtype, shape, bits: [...encodeValues(dtype, shape, numbers).data] };
  });
}

async function answers(request: GradientRequest, dialects: readonly Dialect[]) {
  const all: { way: string; answer: GradientAnswer }[] = [];
  for (const dialect of dialects) {
    for (const accept of ACCEPTED) {
      const way = `${dialect.name}, answered in ${accept}`;
      const response = await server.post(
        '/gradient',
        dialect.encode(request),
        dialect.contentType,
        accept,
      );
      const contentType = response.headers.get('content-type') ?? '';
      const body = new Uint8Array(await response.arrayBuffer());
      assert.equal(response.status, 200, `${way}: ${Buffer.from(body)}`);
      assert.ok(contentType.startsWith(accept), `${way}: ${contentType}`);
      const answer = decodeAnswer(body, contentType) as GradientAnswer;
      mapTensors(answer, (tensor) => {
        assert.equal((tensor as AnswerTensor).form, dialect.answered[accept], way);
      });
      all.push({ way, answer });
    }
  }
  return all;
}

async function assertSameAnswers(request: GradientRequest, dialects: readonly Dialect[]) {
  const [first, ...others] = await answers(request, dialects);
  const expected = comparable(first.answer);
  let tensors = 0;
  mapTensors(first.answer.gradients, () => {
    tensors += 1;
  });
  const adapted = [request.q_proj, request.k_proj, request.v_proj].filter((one) => one.lora_A);
  assert.equal(tensors, 2 * adapted.length);
  for (const { way, answer } of others) {
    assert.deepEqual(comparable(answer), expected, `${way} differs from ${first.way}`);
  }
}

test('any valid problem, in all dialects', async (t) => {
  const seed = testSeed();
  t.diagnostic(`${RUNS} problems`);
  const { tensors, numpyNames, base64, safetensorsNames, msgpackNumpy, lists } = DIALECTS;
  // Half precision may keep no digit of a tiny gradient: that is its tolerance, not its way here.
  const answered = randomProblem.map((request) => ({ ...request, tolerance: 1e9 }));
  const property = fc.asyncProperty(answered, async (request) => {
    const dtypes = dtypesOf(request);
    const dialects = [tensors, numpyNames, base64, safetensorsNames];
    // numpy has no bfloat16.
    if (!dtypes.has('bfloat16')) dialects.push(msgpackNumpy);
    await assertSameAnswers(request, dialects);
    // Lists are read as float32, which loses nothing of a half-precision tensor.
    if (dtypes.has('float64')) return;
    const widened = mapTensors(request, inFloat32) as GradientRequest;
    await assertSameAnswers(widened, [tensors, msgpackNumpy, lists]);
  });
  await fc.assert(property, { seed, numRuns: RUNS });
});
