/** Plans that come to nothing are cheap: each step is priced before it begins, and goes on only where a look says that it pays. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { choose } from '../../src/solver/choose.js';
import type { ChooseOptions } from '../../src/solver/choose-low-rank.js';
import { runJob, type Task } from '../../workers/job.js';
import { type ExactTask, runExactTask } from '../../workers/kernels/exact/run.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { type LowRankTask, runLowRankTask } from '../../workers/kernels/low-rank/task.js';
import { PlanBudget } from '../../workers/kernels/plan-budget.js';
import { runSampledTask, type SampledTask } from '../../workers/kernels/sampled/run.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { makeProblem } from '../kernels/low-rank/support.js';
import { randomProblem, randomStates } from '../kernels/problems.js';

test('few seconds are spent for nothing, more only where they save enough', () => {
  const budget = new PlanBudget(100);
  assert.equal(budget.affords(3), true);
  assert.equal(budget.affords(3), false);
  assert.equal(budget.affords(2), true);
  assert.equal(budget.affords(10, 4), false);
  assert.equal(budget.affords(10, 5), true);
  assert.equal(budget.affords(0.1), false);
});

const wasm = loadWasm();
const never = () => false;

/** The choice of auto, and how many tasks of each step it took. */
function chosen(
  problem: AttentionProblem,
  rates: ChooseOptions['rates'],
  tolerance: number,
  inputGradients?: ChooseOptions['inputGradients'],
) {
  const options: ChooseOptions = {
    inputGradients,
    ...{ method: 'auto', tolerance, seed: 1, rates, correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'same' },
  };
  const steps: Record<string, number> = {};
  const run = (task: Task) => {
    const { kernel, step } = task as Task & { readonly step: string };
    steps[step] = (steps[step] ?? 0) + 1;
    if (kernel === 'exact') return runExactTask(task as ExactTask, wasm, never);
    if (kernel === 'sampled') return runSampledTask(task as SampledTask, wasm, never);
    return runLowRankTask(task as LowRankTask, wasm, never);
  };
  return { ...runJob(choose(problem, options), run), steps };
}

const layer = (deviation: number) =>
  makeProblem({
    ...{ seed: 3, d: 8, rank: 2, queryLength: 8192, adapted: 'qv', kind: 'target', deviation },
  });

// The exact kernel takes 0.8 s; a screen is 5 ms of that, a trial 80.
const rates = { exact: 2e10, lowRank: 1.2e10 };

test('no trial where a look at a few rows says that low-rank costs more than it saves', () => {
  const { kernel, reason, lowRank, steps } = chosen(layer(0.2), { ...rates, lowRank: 6e9 }, 1e-4);
  assert.equal(kernel, 'exact');
  assert.equal(lowRank, null);
  assert.match(reason, /low-rank/i);
  assert.equal(steps.screen, 1);
  assert.equal(steps.trial, undefined);
});

test('a trial beyond the budget where the look says that it pays', () => {
  const { kernel, steps } = chosen(layer(0.02), rates, 0.1);
  assert.equal(kernel, 'low_rank');
  assert.ok(steps.trial! > 0);
});

test('no look where even that is dear', () => {
  const { kernel, reason, steps } = chosen(layer(0.02), { exact: 4e10, lowRank: 1e9 }, 0.1);
  assert.equal(kernel, 'exact');
  assert.match(reason, /not worth a plan/);
  assert.deepEqual(steps, { split: 3 });
});

const HEADS = 8;
const several = (spread: number) =>
  randomProblem({ seed: 1, queryLength: 4096, headDim: 64, heads: HEADS, inFeatures: 32, spread });

test('where draws do not pay for one head no other is looked at', () => {
  const { kernel, sampled, steps } = chosen(several(0.1), rates, 0.05);
  assert.equal(kernel, 'exact');
  assert.equal(sampled, null);
  assert.equal(steps.pilot, 1);
});

test('the reason for exact says of attention states why no keys are drawn', () => {
  const states = (queryLength: number) =>
    randomStates({ seed: 1, queryLength, headDim: 64, heads: 2, causal: true });
  const reasonOf = (length: number, tolerance: number) => {
    const { kernel, reason } = chosen(
      states(length),
      { ...rates, exact: 2e9 },
      tolerance,
      'attention',
    );
    assert.equal(kernel, 'exact');
    return reason;
  };
  assert.match(reasonOf(2048, 0.1), /not of attention states\. Drawn keys .* worth a plan/);
  assert.match(
    reasonOf(2048, 0.01),
    /not of attention states\. Drawn keys pay for tolerances of 0\.03/,
  );
  assert.match(reasonOf(64, 0.1), /^The exact kernel takes about .*: not worth a plan\.$/);
});
