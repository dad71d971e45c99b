import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withRates } from '../../src/engine/rates.js';
import type { ChooseOptions } from '../../src/solver/choose-low-rank.js';
import { runJob } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { runTask } from '../../workers/tasks/run.js';
import { sampleProblem } from '../../workers/tasks/sample-problem.js';

const RATES = { exact: 1e10, lowRank: 1, lowRankGuessed: true };
const short = sampleProblem(64, 8, 2);

const options = (method: ChooseOptions['method']): ChooseOptions => ({
  ...{ method, tolerance: 0.1, seed: 0, correction: false, attentionOutput: false, rates: RATES },
  encode: { gradients: true, batched: false, outputsDtype: 'same' },
});

test('the rate of the low-rank kernel is measured when a request may need it, and once', () => {
  const wasm = loadWasm();
  const measured: number[] = [];
  const rates = (method: ChooseOptions['method'], dryRun = false) =>
    runJob(withRates(short, options(method), dryRun), (task) => {
      const rate = runTask(task as Parameters<typeof runTask>[0], wasm, () => false);
      measured.push(rate as number);
      return rate;
    }).rates;
  assert.deepEqual(rates('exact'), RATES);
  assert.deepEqual(rates('auto'), RATES);
  assert.equal(measured.length, 0);
  const { lowRank } = rates('low_rank');
  assert.ok(lowRank > 1e6 && lowRank < 1e13, `${lowRank}`);
  assert.equal(rates('auto', true).lowRank, lowRank);
  assert.deepEqual(measured, [lowRank]);
});

test('rates that are given are not measured', () => {
  const given = { ...options('low_rank'), rates: { exact: 1, lowRank: 1 } };
  assert.deepEqual(
    runJob(withRates(short, given), () => assert.fail()),
    given,
  );
});
