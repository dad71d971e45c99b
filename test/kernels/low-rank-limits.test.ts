/** What the error figures of the low-rank kernel promise: the statistics of the estimate, the certificate's pilot. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { Arithmetic } from '../../workers/kernels/low-rank/arithmetic/arithmetic.js';
import { statistics } from '../../workers/kernels/low-rank/error/statistics.js';
import { lowRankJob } from '../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../workers/kernels/low-rank/task.js';
import { Random } from '../../workers/kernels/random.js';
import { testSeed } from '../support/random.js';
import { makeProblem, norm, normal, type Recipe } from './low-rank-support.js';

const wasm = loadWasm();
const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);

test('the upper limit covers a norm far below the noise of the sample, and is tighter than its norm', (t) => {
  const seed = testSeed(1);
  const random = new Random(seed);
  const arithmetic = new Arithmetic(wasm);
  const mark = arithmetic.mark();
  const [draws, size, trials] = [64, 200, 300];
  let [covered, tighter] = [0, 0];
  for (let k = 0; k < trials; k++) {
    const error = Float64Array.from({ length: size }, () => normal(random));
    const truth = norm(error);
    // As of n of 20 n rows that have nothing to do with each other, some of which are larger.
    const noise = Math.sqrt(20 * draws);
    const contributions = new Float64Array(draws * size);
    for (let i = 0; i < draws; i++) {
      const scale = noise * Math.exp(0.3 * normal(random));
      for (let a = 0; a < size; a++) {
        contributions[i * size + a] = error[a] + scale * normal(random);
      }
    }
    const { upper, norm: mean } = statistics(
      arithmetic,
      [{ count: draws, estimates: contributions }],
      size,
    );
    arithmetic.release(mark);
    if (truth <= upper) covered++;
    if (upper < mean) tighter++;
  }
  t.diagnostic(`covered ${covered}, tighter ${tighter} of ${trials}`);
  assert.ok(covered >= 0.98 * trials, `${covered} of ${trials}`);
  assert.ok(tighter >= 0.8 * trials, `${tighter} of ${trials}`);
});

test('a long input has a certificate where it says something, and none where it does not', () => {
  const certificates = (recipe: Recipe, features: number) => {
    const problem = makeProblem(recipe);
    const rates = { exact: 30e9, lowRank: 30e9 };
    const plan = runJob(planLowRank(problem, { seed: 1, tolerance: 0.01, rates, features }), run);
    const options = { seed: 1, correction: false, certificate: true, attentionOutput: false };
    const { errors } = runJob(lowRankJob(problem, plan, options), run);
    return Object.values(errors).map(({ certificate }) => certificate);
  };
  const base = { seed: 5, queryLength: 4200, deviation: 0.05 };
  const bounds = certificates({ ...base, d: 4, deviation: 0.01 }, 256);
  assert.ok(bounds.some((bound) => bound !== null && bound.relative < 1));
  assert.ok(bounds.every((bound) => bound !== null));
  for (const bound of certificates({ ...base, d: 32, deviation: 1 }, 16)) assert.equal(bound, null);
});
