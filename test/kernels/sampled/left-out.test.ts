/** What the proxies of a head may leave out of its logits. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { COORDINATES } from '../../../workers/kernels/sampled/plan/plan.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { testSeed } from '../../support/random.js';
import { randomStates } from '../problems.js';
import { distance, exact, named, norm } from '../run.js';
import { needs, outputs, run, wasm } from './support.js';

const SEED = testSeed();

/** Logits of this deviation, spread evenly over all channels. */
function planned(headDim: number, spread: number) {
  const problem = randomStates({ queryLength: 600, heads: 2, headDim, spread, seed: SEED });
  const options = { ...outputs, keys: 40, tolerance: 0.5, needs, seed: SEED };
  return { problem, plan: run(planSampled(problem, options)).plan };
}

const coordinatesOf = ({ plan }: ReturnType<typeof planned>) =>
  plan.heads.map(({ coordinates }) => coordinates);

test('proxies leave out logits of deviation 0.7 at most: sharp heads take more coordinates', () => {
  // Of 64 even channels the fewest coordinates leave out 0.87 of the deviation, twice as many 0.72.
  const [fewest, , most] = COORDINATES;
  assert.deepEqual(coordinatesOf(planned(64, 0.5)), [fewest, fewest]);
  assert.deepEqual(coordinatesOf(planned(64, 2)), [most, most]);
});

test('a head whose proxies would leave out more is exact, also where keys are asked for', () => {
  const wide = planned(128, 3);
  assert.deepEqual(coordinatesOf(wide), [0, 0]);
  const truth = named(exact(wide.problem, wasm, false, 'attention'));
  const result = run(sampledJob(wide.problem, wide.plan, { ...outputs, seed: SEED }));
  for (const [tensor, x] of named(result)) {
    const { upper } = result.errors[tensor]!;
    const error = distance(truth.get(tensor)!, x) / norm(x);
    assert.ok(error <= upper && upper < 1e-3, `${tensor}: ${error}, limit ${upper}`);
  }
});
