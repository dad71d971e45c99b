/** What every stage of the low-rank kernel owes the others: it says how far the job is, and stops when told to. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelledError, type Job } from '../../../workers/job.js';
import { loadKernels, portableKernels } from '../../../workers/kernels/inner/builds.js';
import { Wasm } from '../../../workers/kernels/inner/instance.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { lowRankForwardJob } from '../../../workers/kernels/low-rank/forward-job.js';
import { lowRankJob } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import { type ProblemOptions, randomProblem } from '../problems.js';

const wasm = loadWasm();
const rates = { exact: 30e9, lowRank: 30e9 };

/** Steps that go over the rows of a segment, block by block. */
const PASSES = ['longest', 'norms', 'scan', 'weights', 'keys', 'queries', 'left', 'inputs'];
const SAMPLES = ['sampled_exact', 'sampled_errors', 'sampled_keys'];

/**
 * By step, the fewest polls of one of its tasks. Every task is first told to stop, and has to.
 *
 * @param onPoll what else happens then.
 */
function drive<R>(
  job: Job<R, LowRankTask>,
  polls: Map<string, number>,
  on: Wasm = wasm,
  onPoll = (_: string) => {},
): R {
  let reached = 0;
  let step = job.next([]);
  while (!step.done) {
    const { name, span, tasks } = step.value;
    assert.ok(span, `stage ${name} does not say which part of the work it is`);
    assert.ok(span[0] >= reached - 1e-12 && span[1] >= span[0] && span[1] <= 1 + 1e-12, name);
    [, reached] = span;
    const results = tasks.map((task) => {
      assert.throws(() => runLowRankTask(task, on, () => true), CancelledError, task.step);
      let asked = 0;
      const result = runLowRankTask(task, on, () => {
        asked++;
        onPoll(task.step);
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

/** Multiplications between two polls: a millisecond or two, and few rows of the largest products. */
const MOST_BETWEEN = 2 ** 25;

test('no stage makes large products between two polls, however wide a head is', () => {
  const portable = loadKernels(portableKernels());
  let since = 0;
  const counted = Object.fromEntries(
    (['gemm', 'gemm_tn', 'dots64'] as const).map((name) => [
      name,
      (...args: [number, number, number, ...never[]]) => {
        since += args[0] * args[1] * args[2];
        (portable.fn[name] as unknown as (...args: unknown[]) => void)(...args);
      },
    ]),
  );
  const counting = new Wasm({ ...portable.fn, ...counted }, portable.build);
  const most = new Map<string, number>();
  const onPoll = (step: string) => {
    most.set(step, Math.max(since, most.get(step) ?? 0));
    since = 0;
  };
  const problem = randomProblem({ seed: 7, queryLength: 600, headDim: 256, inFeatures: 512 });
  const polls = new Map<string, number>();
  const options = { tolerance: 0.05, seed: 1, rates, features: 256 };
  const plan = drive(planLowRank(problem, options), polls, counting, onPoll);
  const settings = { seed: 1, correction: false, certificate: false, attentionOutput: false };
  drive(lowRankJob(problem, plan, settings), polls, counting, onPoll);
  assert.ok(most.size > 0);
  for (const [step, work] of most) assert.ok(work <= MOST_BETWEEN, `${step}: ${work}`);
});
