/** A sampled answer that misses its tolerance: more keys are drawn beside those that there are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SolveOptions } from '../../src/solver/solution.js';
import { solve } from '../../src/solver/solve.js';
import { type Job, runJob } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { planSampled } from '../../workers/kernels/sampled/plan/stages.js';
import { runTask } from '../../workers/tasks/run.js';
import { randomProblem } from '../kernels/problems.js';
import { distance, exact, named, norm } from '../kernels/run.js';
import { testSeed } from '../support/random.js';

const SEED = testSeed(3);
const wasm = loadWasm();
const run = <R>(job: Job<R>): R =>
  runJob(job, (task, stop) => runTask(task as Parameters<typeof runTask>[0], wasm, stop));

const problem = randomProblem({
  ...{ queryLength: 3072, heads: 8, headDim: 16, inFeatures: 24, spread: 3 },
  ...{ causal: true, seed: SEED },
});
const KEYS = 60;
const planned = run(
  planSampled(problem, {
    ...{ keys: KEYS, tolerance: 1, seed: SEED, attentionOutput: false },
    needs: { gradients: true, output: false, inputGradients: false },
  }),
);

/** With a plan that was too hopeful for the tolerance. */
function solveHopefully(method: 'auto' | 'sampled', tolerance: number) {
  const options: SolveOptions = {
    ...{ method, tolerance, toleranceStated: true, seed: SEED },
    rates: { exact: 1, lowRank: 1 },
    ...{ correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'float32' },
  };
  const plan = { ...planned.plan, predictedError: tolerance / (1 + tolerance) };
  const choice = { lowRank: null, sampled: { ...planned, plan } };
  const reason = 'It was expected to do.';
  return run(solve(problem, { kernel: 'sampled', reason, ...choice }, options));
}

const limitOf = ({ error }: ReturnType<typeof solveHopefully>) =>
  Math.max(...Object.values(error).map(({ estimate }) => estimate!.upper));

/** What the first plan reaches by itself. */
const FIRST = limitOf(solveHopefully('sampled', 5));

test('draws are topped up, and both together keep the tolerance', () => {
  const solution = solveHopefully('sampled', 0.7 * FIRST);
  assert.equal(solution.method, 'sampled');
  assert.equal(solution.fallback, false);
  assert.match(
    solution.reason,
    /^Sampled with 60 keys drawn for a block gave an error of up to \S+, above the tolerance of \S+: \d+ more were drawn\.$/,
  );
  assert.ok(solution.sampled!.keys > KEYS);
  assert.ok(limitOf(solution) <= 0.7 * FIRST);
  const truth = named(exact(problem, wasm));
  for (const [name, x] of named(solution.result)) {
    const error = distance(truth.get(name)!, x) / norm(truth.get(name)!);
    const { upper } = solution.error[name]!.estimate!;
    assert.ok(error <= upper, `${name}: ${error} above ${upper}; seed ${SEED}`);
  }
});

test('where more draws cost as much as exact it is computed exactly', () => {
  const solution = solveHopefully('auto', FIRST / 1000);
  assert.equal(solution.method, 'exact');
  assert.equal(solution.fallback, true);
  assert.match(solution.reason, /above the tolerance of \S+: computed exactly\.$/);
});

test('asked for by name, sampled takes all keys where no draws keep the tolerance', () => {
  const solution = solveHopefully('sampled', FIRST / 1000);
  assert.equal(solution.method, 'sampled');
  assert.match(solution.reason, /all keys were taken\.$/);
  assert.ok(limitOf(solution) <= FIRST / 1000);
});
