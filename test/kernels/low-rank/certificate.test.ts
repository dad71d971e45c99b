/** The certificate: true for every input, and small where the theorem lives. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { TENSORS } from '../../../workers/kernels/low-rank/head/tensors.js';
import { lowRankJob } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import { testSeed } from '../../support/random.js';
import { distance, norm } from '../run.js';
import { exactGradients, makeProblem, type Recipe } from './support.js';

const wasm = loadWasm();
const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);

interface Certified {
  readonly tensor: string;
  readonly error: number;
  /** Frobenius norm; null: void. */
  readonly bound: number | null;
  readonly truth: number;
}

function certified(recipe: Recipe, features: number): Certified[] {
  const problem = makeProblem(recipe);
  const rates = { exact: 1, lowRank: 1 };
  const plan = runJob(planLowRank(problem, { tolerance: 0.01, seed: 1, rates, features }), run);
  const settings = { seed: 1, correction: false, certificate: true, attentionOutput: false };
  const result = runJob(lowRankJob(problem, plan, settings), run);
  // Such an answer is not given.
  if (result.lostRows > 0) return [];
  const exact = exactGradients(problem);
  return TENSORS.flatMap((tensor) => {
    const [projection, part] = tensor.split('.') as ['q_proj', 'lora_A'];
    const gradient = result.gradients[projection]?.[part];
    if (!gradient) return [];
    return {
      tensor,
      error: distance(gradient, exact[tensor]),
      bound: result.errors[tensor]?.certificate?.frobenius ?? null,
      truth: norm(exact[tensor]),
    };
  });
}

const recipes: fc.Arbitrary<Recipe> = fc.record({
  seed: fc.nat(),
  queryLength: fc.integer({ min: 20, max: 200 }),
  keyLength: fc.integer({ min: 20, max: 200 }),
  d: fc.integer({ min: 1, max: 24 }),
  dv: fc.integer({ min: 1, max: 24 }),
  rank: fc.integer({ min: 1, max: 4 }),
  deviation: fc.double({ min: 0.001, max: 0.6, noNaN: true }),
  tail: fc.constantFrom('normal', 't4', 'few huge rows', 'one huge key'),
  spectrum: fc.constantFrom('flat', 'harmonic', 'exponential'),
  adapted: fc.constantFrom('qkv', 'qv', 'q', 'k', 'v'),
  kind: fc.constantFrom('target', 'grad_output'),
  related: fc.boolean(),
  mean: fc.constantFrom(0, 0.5),
});

test('no certificate is ever smaller than the error', () => {
  const seed = testSeed();
  let bounds = 0;
  fc.assert(
    fc.property(recipes, fc.integer({ min: 1, max: 150 }), (recipe, features) => {
      for (const { tensor, error, bound } of certified(recipe, features)) {
        if (bound === null) continue;
        bounds++;
        assert.ok(error <= bound, `${tensor}: error ${error}, certificate ${bound}`);
      }
    }),
    { seed, numRuns: 60 },
  );
  assert.ok(bounds > 60, `only ${bounds} certificates, all others void`);
});

test('in the regime of the theorem the certificate meets a tolerance of 1 %', () => {
  const length = 1024;
  const recipe: Recipe = {
    ...{ seed: 1, queryLength: length, d: Math.round(Math.log(length)), rank: 4 },
    ...{ deviation: 0.03, spectrum: 'flat', related: true, mean: 0.5 },
  };
  const tensors = certified(recipe, 512);
  assert.equal(tensors.length, 6);
  for (const { tensor, error, bound, truth } of tensors) {
    assert.ok(bound !== null && bound <= 0.01 * truth, `${tensor}: ${bound! / truth}`);
    assert.ok(error <= bound, `${tensor}: error ${error}, certificate ${bound}`);
  }
});
