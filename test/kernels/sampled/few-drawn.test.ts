/** Short inputs, where most blocks take all keys and only few are drawn. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Job, runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { runSampledTask, type SampledTask } from '../../../workers/kernels/sampled/run.js';
import { testSeed } from '../../support/random.js';
import { randomStates } from '../problems.js';
import { distance, exact, named, norm } from '../run.js';

const SEED = testSeed(5);
const wasm = loadWasm();
const run = <R>(job: Job<R, SampledTask>) =>
  runJob(job, (task, stop) => runSampledTask(task, wasm, stop));

test('limits count blocks that are measured and have all their keys', () => {
  const shape = { queryLength: 512, batch: 2, heads: 8, headDim: 16, spread: 4 };
  const problem = randomStates({ ...shape, seed: SEED });
  const outputs = { attentionOutput: false, inputGradients: 'attention' } as const;
  const needs = { gradients: true, output: false, inputGradients: true };
  const truth = named(exact(problem, wasm, false, 'attention'));
  let drawn = 0;
  for (let seed = SEED; seed < SEED + 12; seed++) {
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
