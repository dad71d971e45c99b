/** Gradients of attention states that are sent in 16 bits: the limits of the weights' gradients know what that rounding adds to these. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SolveOptions } from '../../src/solver/solution.js';
import { solve } from '../../src/solver/solve.js';
import { type Job, runJob } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { planSampled } from '../../workers/kernels/sampled/plan/stages.js';
import type { AttentionKind, AttentionProblem } from '../../workers/problem.js';
import { runTask } from '../../workers/tasks/run.js';
import { widenEncoded } from '../../workers/tensor/narrow.js';
import { randomProblem, randomStates } from '../kernels/problems.js';
import { distance, named, norm, reference } from '../kernels/run.js';
import { testSeed } from '../support/random.js';

const SEED = testSeed(11);
const [L, d, inputs] = [600, 16, 24];
const wasm = loadWasm();
const run = <R>(job: Job<R>): R =>
  runJob(job, (task, stop) => runTask(task as Parameters<typeof runTask>[0], wasm, stop));

const states = randomStates({ queryLength: L, headDim: d, heads: 1, seed: SEED });
const X = randomProblem({
  ...{ queryLength: L, inFeatures: inputs, headDim: d, seed: SEED },
}).inputs.query;
// As a residual stream has it. Rows of dS add up to 0: nothing of this channel is left in X^T dK.
for (let i = 0; i < L; i++) X.data[i * inputs] = 100;

/** X^T dY */
function ofWeights(dY: Float32Array | Float64Array): Float64Array {
  const out = new Float64Array(inputs * d);
  for (let i = 0; i < L; i++) {
    for (let a = 0; a < inputs; a++) {
      for (let c = 0; c < d; c++) out[a * d + c]! += X.data[i * inputs + a]! * dY[i * d + c]!;
    }
  }
  return out;
}

/** Gradients come back in the dtypes of their tensors. */
function inDtype(dtype: 'bfloat16' | 'float16') {
  const { query, key, value } = states.inputs;
  return {
    ...states,
    inputs: { query: { ...query, dtype }, key: { ...key, dtype }, value: { ...value, dtype } },
    projectedFrom: { query: X, key: X, value: X },
  };
}

function solveIn(
  problem: AttentionProblem,
  method: 'auto' | 'sampled',
  tolerance: number,
  inputGradients: AttentionKind = 'attention',
) {
  const outputs = { attentionOutput: false, inputGradients };
  const options: SolveOptions = {
    ...{ method, tolerance, toleranceStated: true, seed: SEED },
    rates: { exact: 1, lowRank: 1 },
    ...{ correction: false, ...outputs },
    encode: { gradients: true, batched: true, outputsDtype: 'same' },
  };
  const needs = { gradients: true, output: false, inputGradients: true };
  const plan = run(
    planSampled(problem, { ...outputs, keys: undefined, tolerance, needs, seed: SEED }),
  );
  const choice = { kernel: 'sampled', reason: '', lowRank: null, sampled: plan } as const;
  return run(solve(problem, choice, options));
}

for (const dtype of ['bfloat16', 'float16'] as const) {
  test(`a channel that is large in all rows, sent in ${dtype}`, () => {
    const problem = inDtype(dtype);
    const { tensors, error } = solveIn(problem, 'sampled', 0.5);
    const truth = named(reference(problem, 'attention'));
    for (const name of ['query', 'key', 'value'] as const) {
      const got = ofWeights(widenEncoded(tensors.gradients![name]!));
      const want = ofWeights(truth.get(name)!);
      const off = distance(want, got) / norm(want);
      const { upper } = error[name]!.estimate!;
      assert.ok(off <= upper, `${name}: ${off} above ${upper}; seed ${SEED}`);
    }
  });
}

test('where that rounding alone misses the tolerance `auto` computes exactly, and sampled says why it cannot', () => {
  const problem = inDtype('bfloat16');
  const { method, fallback } = solveIn(problem, 'auto', 0.005);
  assert.deepEqual({ method, fallback }, { method: 'exact', fallback: true });
  assert.throws(() => solveIn(problem, 'sampled', 0.005), /key is off by .* rounded to bfloat16/);
});

test('gradients of inputs, which nothing measures, have no figure in 16 bits either', () => {
  const random = randomProblem({ queryLength: L, inFeatures: inputs, headDim: d, seed: SEED });
  const { query, key, value } = random.inputs;
  const half = { dtype: 'bfloat16' } as const;
  const states = { ...query, ...half };
  assert.ok(query === key && key === value);
  const problem = { ...random, inputs: { query: states, key: states, value: states } };
  const { error } = solveIn(problem, 'sampled', 0.5, 'self');
  assert.equal(error['input_gradients.hidden_states']!.estimate, null);
});
