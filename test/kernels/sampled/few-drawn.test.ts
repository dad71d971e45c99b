/** Short inputs, where most blocks take all keys and only few are drawn. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { testSeed } from '../../support/random.js';
import { randomStates } from '../problems.js';
import { distance, exact, named, norm } from '../run.js';
import { needs, outputs, run, wasm } from './support.js';

const SEED = testSeed(5);

test('limits count blocks that are measured and have all their keys', () => {
  const shape = { queryLength: 512, batch: 2, heads: 8, headDim: 16, spread: 4 };
  const problem = randomStates({ ...shape, seed: SEED });
  const truth = named(exact(problem, wasm, false, 'attention'));
  let drawn = 0;
  for (let seed = SEED; seed < SEED + 12; seed += 2) {
    const keys = 40 + 3 * (seed - SEED);
    const { plan } = run(planSampled(problem, { ...outputs, keys, tolerance: 0.1, needs, seed }));
    const result = run(sampledJob(problem, plan, { ...outputs, seed }));
    for (const [tensor, x] of named(result)) {
      const error = distance(truth.get(tensor)!, x) / norm(x);
      const { upper, rows_sampled } = result.errors[tensor]!;
      assert.ok(rows_sampled >= 26 * 64, `${rows_sampled} rows measured; seed ${seed}`);
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}, ${keys} keys; seed ${seed}`);
      drawn += Number(error > 1e-3);
    }
  }
  assert.ok(drawn > 0, `nothing was drawn; seed ${SEED}`);
});

test('where no more blocks are drawn than are measured, none is left out', () => {
  // Of three drawn blocks of this one, two make all of the error: they were measured by chance.
  const shape = { queryLength: 586, heads: 2, headDim: 8, spread: 3, softcap: 20, causal: true };
  const problem = randomStates({ ...shape, seed: 34 });
  const query = problem.inputs.query.data;
  for (let c = 0; c < 16; c++) query[513 * 16 + c]! *= 10;
  const truth = named(exact(problem, wasm, false, 'attention'));
  const options = { ...outputs, keys: 120, tolerance: 0.1, needs, seed: 34 };
  const { plan } = run(planSampled(problem, options));
  for (let seed = 340; seed < 344; seed++) {
    const result = run(sampledJob(problem, plan, { ...outputs, seed }));
    for (const [tensor, x] of named(result)) {
      const error = distance(truth.get(tensor)!, x) / norm(x);
      const { upper } = result.errors[tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${seed}`);
    }
  }
});
