/** Gradients that are small beside what adds up to them: what is left of rounding is in the limits, drawn or not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import type { AttentionProblem } from '../../../workers/problem.js';
import { testSeed } from '../../support/random.js';
import { randomProblem, randomStates } from '../problems.js';
import { distance, named, norm, reference } from '../run.js';
import { needs, outputs, run } from './support.js';

const SEED = testSeed(7);

/** Every second row is the one before it, and its upstream gradient that with the other sign, nearly. */
function cancelling(problem: AttentionProblem): AttentionProblem {
  const { queryLength } = problem.dims;
  const { query, key, value } = problem.inputs;
  for (const { data } of new Set([query, key, value, problem.objective.tensor])) {
    const width = data.length / queryLength;
    const factor = data === problem.objective.tensor.data ? -1.001 : 1;
    for (let row = 0; row < queryLength; row += 2) {
      for (let c = 0; c < width; c++) {
        data[(row + 1) * width + c] = factor * data[row * width + c]!;
      }
    }
  }
  return problem;
}

const shape = { queryLength: 1024, heads: 2, headDim: 16, seed: SEED };
const problems = {
  'attention states': { problem: randomStates(shape), kind: 'attention' },
  projections: { problem: randomProblem(shape), kind: undefined },
} as const;

for (const [name, { problem: random, kind }] of Object.entries(problems)) {
  test(`sums that cancel: ${name}`, () => {
    const problem = cancelling(random as AttentionProblem);
    const outputs = { attentionOutput: false, inputGradients: kind };
    const needs = { gradients: true, output: false, inputGradients: kind !== undefined };
    const truth = named(reference(problem, kind));
    const planned = planSampled(problem, {
      ...outputs,
      keys: undefined,
      tolerance: 0.1,
      needs,
      seed: SEED,
    });
    const result = run(sampledJob(problem, run(planned).plan, { ...outputs, seed: SEED }));
    let rounded = 0;
    for (const [tensor, x] of named(result)) {
      const error = distance(truth.get(tensor)!, x) / norm(x);
      const { upper } = result.errors[tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}`);
      rounded = Math.max(rounded, error);
    }
    assert.ok(rounded > 1e-5, `nothing cancelled: ${rounded}; seed ${SEED}`);
  });
}

test('a long row whose softmax is saturated, looked at twice or not', () => {
  const states = randomStates({ queryLength: 105, headDim: 32, seed: SEED + 42 });
  const { query } = states.inputs;
  for (let c = 0; c < 32; c++) query.data[59 * 32 + c]! *= 30;
  // Nearly all of its dS cancels, and what rounding leaves of it is larger than other rows.
  states.objective.tensor.data.set(query.data);
  const truth = named(reference(states, 'attention'));
  const planned = planSampled(states, {
    ...{ ...outputs, keys: 64, tolerance: 0.3, needs, seed: SEED },
  });
  const { plan } = run(planned);
  for (let seed = SEED; seed < SEED + 8; seed++) {
    const result = run(sampledJob(states, plan, { ...outputs, seed }));
    for (const [tensor, x] of named(result)) {
      const error = distance(truth.get(tensor)!, x) / norm(x);
      const { upper } = result.errors[tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}, draws ${seed}`);
    }
  }
});
