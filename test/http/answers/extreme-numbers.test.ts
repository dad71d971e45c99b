/** Finite numbers of any size: an answer that is finite, or a problem that says why not. Never a failure of the service. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ProblemDetails } from '../../../src/errors.js';
import { encodedTensor } from '../../../workers/tensor/encoded.js';
import { widenEncoded } from '../../../workers/tensor/narrow.js';
import { sharedServer } from '../../support/processes/server.js';
import { seededRandom, testSeed } from '../../support/random.js';
import { type Body, pack, tensor, validBody } from '../../support/wire/bodies.js';
import { decodeAnswer } from '../../support/wire/dialects.js';

const MSGPACK = 'application/vnd.msgpack';
const server = await sharedServer();

/** Numbers of every gradient and output of an answer. */
function numbersOf(answer: Body): number[] {
  const tensors = [
    ...Object.values<Body>(answer.gradients ?? {}).flatMap(({ lora_A, lora_B }) => [
      lora_A,
      lora_B,
    ]),
    ...Object.values<Body>(answer.input_gradients ?? {}),
    ...(answer.attention_output ? [answer.attention_output] : []),
  ];
  return tensors.flatMap(({ dtype, shape, data }) =>
    Array.from(widenEncoded(encodedTensor(dtype, shape, new Uint8Array(data)))),
  );
}

async function answerOrProblem(path: string, body: Body): Promise<number> {
  const response = await server.post(path, pack(body), MSGPACK, MSGPACK);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const told = JSON.stringify({ path, method: body.method, scaling: body.scaling });
  if (response.status === 200) {
    assert.ok(numbersOf(decodeAnswer(bytes, MSGPACK) as Body).every(Number.isFinite), told);
  } else {
    const { type, detail } = JSON.parse(Buffer.from(bytes).toString()) as ProblemDetails;
    assert.equal(response.status, 422, `${told}: ${detail}`);
    assert.match(type, /not-finite|tolerance-missed|invalid-value/, told);
  }
  return response.status;
}

test('bodies of extreme finite numbers get a finite answer or a problem', async () => {
  const random = seededRandom(testSeed());
  const any = <T>(list: readonly T[]): T => list[random.integer(0, list.length - 1)]!;
  const sizes = [1e-45, 1e-30, 1e-10, 1, 1e3, 1e10, 1e19, 1e25, 1e37];
  let answered = 0;
  for (let k = 0; k < 60; k++) {
    const L = any([1, 4, 70]);
    const large = (shape: number[]) => {
      const [size, one] = [any(sizes), any([0, 0, 1e30, 3e38])];
      const at = random.integer(0, 10);
      return tensor(shape, (i) => (i === at && one ? one : size * random.normal()));
    };
    const body = validBody();
    body.hidden_states = large([L, 4]);
    for (const name of ['q_proj', 'k_proj', 'v_proj']) body[name].weight = large([2, 4]);
    body.target = large([L, 2]);
    body.method = any(['auto', 'exact', 'low_rank']);
    if (any([true, false])) body.scaling = any([1e-300, 1e-10, 1, 1e30, 1e300]);
    body.outputs = ['gradients', ...any([[], ['attention_output'], ['input_gradients']])];
    if (body.method === 'low_rank' && any([true, false])) body.features = 8;
    if ((await answerOrProblem('/gradient', body)) === 200) answered++;
    const { target: _, outputs: __, ...layer } = body;
    await answerOrProblem('/forward', layer);
    await answerOrProblem('/plan', layer);
  }
  assert.ok(answered > 0, 'some are answered');
});

test('where no plan can be made the exact kernel is chosen, and low_rank says why not', async () => {
  const long = (method: string): Body => ({
    ...validBody(),
    hidden_states: tensor([8192, 4], (k) => 1e15 * Math.sin(k)),
    target: tensor([8192, 2]),
    method,
  });
  const { target: _, ...layer } = long('auto');
  assert.equal(await answerOrProblem('/plan', layer), 200);
  assert.equal(await answerOrProblem('/gradient', { ...long('low_rank'), features: 8 }), 422);
});
