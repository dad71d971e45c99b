/** All fixtures through the queue, in parts by 2 workers: the gradients of PyTorch, and bit by bit those of one machine. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodePhase } from '../../src/engine/decode-phase.js';
import { parseLayer, requireProblem } from '../../src/request/parse.js';
import type { GradientRequest } from '../../src/request/request.js';
import { decodeMsgpack } from '../../src/wire/msgpack.js';
import { DEFAULT_WIRE_LIMITS } from '../../src/wire/tree/wire-limits.js';
import { exactParts } from '../../workers/kernels/exact/gradient.js';
import { sharedFloat32, sharedFloat64 } from '../../workers/kernels/result.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { named } from '../kernels/run.js';
import { type Fixture, loadFixtures } from '../support/fixtures.js';
import { DIALECTS } from '../support/wire/dialects.js';
import { relativeError, values, type WireTensor } from '../support/wire/wire-tensor.js';
import { cluster } from './cluster.js';
import { cutsOf, large } from './nodes.js';
import { withoutStore } from './store.js';

const WORKERS = 2;
const TIMES_NAIVE = 3;
const FLOOR = 2 ** -21;

const skip = withoutStore;

const context = () => ({ signal: new AbortController().signal });

async function problemOf({ request }: Fixture) {
  const bytes = DIALECTS.tensors.encode(request);
  const memory = new Uint8Array(new SharedArrayBuffer(bytes.length));
  memory.set(bytes);
  const { value } = decodeMsgpack(memory, DEFAULT_WIRE_LIMITS);
  const parsed = parseLayer(value as unknown as GradientRequest);
  const shared = { float32: sharedFloat32, float64: sharedFloat64 };
  await cluster.node.pool.run(decodePhase(parsed.pending, shared), context());
  const wanted = request.outputs ?? ['gradients'];
  const states = parsed.kind === 'attention';
  const inputGradients =
    states || wanted.includes('input_gradients') ? { inputGradients: parsed.kind } : {};
  return {
    problem: requireProblem(parsed, wanted.includes('gradients')),
    outputs: { attentionOutput: wanted.includes('attention_output'), ...inputGradients },
  };
}

/** What PyTorch says of each tensor, by name, and the error of float32. */
function truthOf({ expected, naive_float32: naive }: Fixture): Map<string, [WireTensor, number]> {
  const tensors = new Map<string, [WireTensor, number]>();
  for (const [name, gradient] of Object.entries(expected.gradients)) {
    if ('dtype' in gradient) tensors.set(name, [gradient, naive[name]!]);
    else {
      for (const part of ['lora_A', 'lora_B'] as const) {
        tensors.set(`${name}.${part}`, [gradient[part], naive[`${name}.${part}`]!]);
      }
    }
  }
  for (const [name, gradient] of Object.entries(expected.input_gradients ?? {})) {
    tensors.set(name, [gradient, naive[`input_gradients.${name}`]!]);
  }
  return tensors;
}

for (const fixture of skip ? [] : loadFixtures()) {
  test(fixture.name, async () => {
    await cluster.have(WORKERS);
    const { problem, outputs } = await problemOf(fixture);
    const options = { ...outputs, estimate: { rows: 16, seed: 1 } };
    const job = () => large(exactParts(problem, options, cutsFor(problem, outputs)));
    const { node } = cluster;
    const { partsHere } = node.figures();
    const sent = await node.run(job(), context());
    assert.equal(node.figures().partsHere, partsHere);
    assert.deepEqual(sent, await node.pool.run(job(), context()));
    const tensors = named(sent);
    for (const [name, [truth, naive]] of truthOf(fixture)) {
      const error = relativeError(Float64Array.from(tensors.get(name)!), values(truth));
      assert.ok(error <= TIMES_NAIVE * naive + FLOOR, `${name}: ${error}, naive float32 ${naive}`);
    }
  });
}

/** Gradients of inputs that are projected are cut by items alone. */
function cutsFor(problem: AttentionProblem, { inputGradients }: { inputGradients?: string }) {
  const cuts = cutsOf(problem);
  if (!inputGradients || inputGradients === 'attention') return cuts;
  const { batch, keyValueHeads } = problem.dims;
  const sharedHeads = { first: 0, last: keyValueHeads };
  return Array.from({ length: batch }, (_, item) => ({
    ...cuts[item * keyValueHeads]!,
    sharedHeads,
  }));
}
