/** What every stage of the low-rank kernel owes the others: it says how far the job is, and stops when told to. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelledError, type Job } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { lowRankForwardJob } from '../../workers/kernels/low-rank/forward-job.js';
import { lowRankJob } from '../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../workers/kernels/low-rank/task.js';
import { type ProblemOptions, randomProblem } from './problems.js';

const wasm = loadWasm();
const rates = { exact: 30e9, lowRank: 30e9 };

/** Steps that go over the rows of a segment, block by block. */
const PASSES = ['longest', 'norms', 'scan', 'weights', 'keys', 'queries', 'left', 'inputs'];
const SAMPLES = ['sampled_exact', 'sampled_errors', 'sampled_keys'];

/** By step, the fewest polls of one of its tasks. Every task is first told to stop, and has to. */
function drive<R>(job: Job<R, LowRankTask>, polls: Map<string, number>): R {
  let reached = 0;
  let step = job.next([]);
  while (!step.done) {
    const { name, span, tasks } = step.value;
    assert.ok(span, `stage ${name} does not say which part of the work it is`);
    assert.ok(span[0] >= reached - 1e-12 && span[1] >= span[0] && span[1] <= 1 + 1e-12, name);
    [, reached] = span;
    const results = tasks.map((task) => {
      assert.throws(() => runLowRankTask(task, wasm, () => true), CancelledError, task.step);
      let asked = 0;
      const result = runLowRankTask(task, wasm, () => {
        asked++;
        return false;
      });
      polls.set(task.step, Math.min(asked, polls.get(task.step) ?? Number.POSITIVE_INFINITY));
      return result;
    });
    step = job.next(results);
  }
  assert.ok(reached > 0.99, `the last stage ended at ${reached} of the work`);
  return step.value;
}

const cases: Readonly<Record<string, Omit<ProblemOptions, 'seed'>>> = {
  'all heads narrow, drawn features': { queryLength: 900, headDim: 8, heads: 2, spread: 0.2 },
  'rotary, causal, input gradients': { queryLength: 520, headDim: 8, rotary: true, causal: true },
};

for (const [name, options] of Object.entries(cases)) {
  test(`every stage tells its share of the work and polls: ${name}`, () => {
    const problem = randomProblem({ seed: 5, ...options });
    const polls = new Map<string, number>();
    const inputGradients = options.rotary === true;
    const plan = drive(
      planLowRank(problem, { tolerance: 0.02, seed: 1, rates, features: 24, inputGradients }),
      polls,
    );
    const settings = { seed: 1, correction: false, certificate: true, attentionOutput: true };
    const inputs = inputGradients ? ('self' as const) : undefined;
    drive(lowRankJob(problem, plan, { ...settings, inputGradients: inputs }), polls);
    drive(lowRankForwardJob(problem, plan, { seed: 1 }), polls);
    const blocks = Math.floor(problem.dims.queryLength / 128);
    for (const [step, asked] of polls) {
      // One poll is made before the task begins.
      const wanted = PASSES.includes(step)
        ? 1 + blocks
        : step === 'estimate'
          ? plan.sampledRows
          : SAMPLES.includes(step)
            ? 2
            : 1;
      assert.ok(asked >= wanted, `${step} polled ${asked} times, ${blocks} blocks`);
    }
    for (const step of PASSES) assert.ok(step === 'inputs' || polls.has(step), step);
    assert.equal(polls.has('inputs'), inputGradients);
    assert.equal(polls.has('sampled_keys'), inputGradients);
  });
}
