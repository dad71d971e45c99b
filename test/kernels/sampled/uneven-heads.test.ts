/** Drawn keys where one head of many makes nearly all of the error. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { testSeed } from '../../support/random.js';
import { randomStates } from '../problems.js';
import { distance, exact, named, norm } from '../run.js';
import { needs, outputs, run, wasm } from './support.js';

const SEED = testSeed(5);

test('measured blocks find the one head of 64 that looks far', () => {
  const [length, heads, headDim, far] = [768, 64, 32, 40];
  const problem = randomStates({
    ...{ queryLength: length, heads, headDim, causal: true, seed: SEED },
  });
  const { query, key } = problem.inputs;
  for (let i = 0; i < length; i++) {
    for (let h = 0; h < heads; h++) {
      for (let c = 0; h !== far && c < headDim; c++) {
        // Logits that fall fast with the distance.
        const angle = 0.011 * 1.31 ** (c >> 1) * i;
        const x = 4 * (c % 2 ? Math.sin(angle) : Math.cos(angle));
        query.data[(i * heads + h) * headDim + c] = x;
        key.data[(i * heads + h) * headDim + c] = x;
      }
    }
  }
  const { plan } = run(
    planSampled(problem, { ...outputs, keys: 1, tolerance: 0.1, needs, seed: SEED }),
  );
  const truth = named(exact(problem, wasm, false, 'attention'));
  for (let seed = SEED; seed < SEED + 4; seed++) {
    const result = run(sampledJob(problem, plan, { ...outputs, seed }));
    for (const [tensor, x] of named(result)) {
      const error = distance(truth.get(tensor)!, x) / norm(x);
      const { upper } = result.errors[tensor]!;
      assert.ok(error > 1e-3, `${tensor}: nothing was drawn; seed ${seed}`);
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${seed}`);
    }
  }
});
