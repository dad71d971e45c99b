/** A plan that was too hopeful: auto tries once more before it pays for the exact kernel. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { forwardJob } from '../../src/engine/forward-job.js';
import type { SolveOptions } from '../../src/solver/solution.js';
import { solve } from '../../src/solver/solve.js';
import { type Job, runJob, type Task } from '../../workers/job.js';
import { type ExactTask, runExactTask } from '../../workers/kernels/exact/run.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { planLowRank } from '../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../workers/kernels/low-rank/task.js';
import { Lease } from '../../workers/tensor/shared-memory.js';
import { exactGradients, makeProblem } from '../kernels/low-rank/support.js';
import { distance, norm } from '../kernels/run.js';

const wasm = loadWasm();
const never = () => false;

function run<Result>(job: Job<Result>): Result {
  return runJob(job, (task: Task) =>
    task.kernel === 'exact'
      ? runExactTask(task as ExactTask, wasm, never)
      : runLowRankTask(task as LowRankTask, wasm, never),
  );
}

const problem = makeProblem({
  ...{ seed: 5, d: 16, rank: 4, queryLength: 700, keyLength: 700, deviation: 0.3 },
  ...{ adapted: 'qv', kind: 'grad_output' as const },
});
const SLOW_EXACT = { exact: 1, lowRank: 1e9 };
const FAST_EXACT = { exact: 1e12, lowRank: 1 };

/** Auto with a plan that was wrong: 16 features, of which it expected an error within the tolerance. */
function solveHopefully(rates: SolveOptions['rates']) {
  const seed = 1;
  const tolerance = 0.02;
  const few = run(planLowRank(problem, { tolerance, seed, rates, features: 16 }));
  const lowRank = { ...few, predictedError: tolerance, meetsTolerance: true };
  const options: SolveOptions = {
    ...{ method: 'auto', tolerance, toleranceStated: true, seed, rates },
    ...{ correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'same' },
  };
  const plans = { lowRank, sampled: null };
  const choice = { kernel: 'low_rank', reason: 'It was expected to do.', ...plans } as const;
  return { tolerance, few, solution: run(solve(problem, choice, options)) };
}

test('where exact is slow a stricter plan follows one that missed the tolerance', () => {
  const { tolerance, few, solution } = solveHopefully(SLOW_EXACT);
  assert.equal(solution.method, 'low_rank');
  assert.equal(solution.fallback, false);
  assert.match(
    solution.reason,
    /^Low-rank with 16 features gave .* above the tolerance of 0.02: again with \d+\.$/,
  );
  assert.ok(solution.plan && solution.plan.features > few.features);
  const exact = exactGradients(problem);
  for (const [name, { estimate }] of Object.entries(solution.error)) {
    const [projection, part] = name.split('.') as ['q_proj', 'lora_A'];
    const gradient = solution.result.gradients[projection]?.[part];
    assert.ok(gradient && estimate && estimate.upper <= tolerance, name);
    const error = distance(gradient, exact[name as 'q_proj.lora_A']) / norm(gradient);
    assert.ok(error <= estimate.upper, `${name}: ${error}, upper ${estimate.upper}`);
  }
});

test('where exact is fast it computes what missed the tolerance', () => {
  const { few, solution } = solveHopefully(FAST_EXACT);
  assert.equal(solution.method, 'exact');
  assert.equal(solution.fallback, true);
  assert.match(solution.reason, /above the tolerance of 0.02: computed exactly\.$/);
  assert.equal(solution.plan?.features, few.features);
});

test('an output that misses its tolerance has a second plan, too', () => {
  // Values go with the keys, so that the errors of a row add up: the first plan cannot know.
  const layer = makeProblem({
    ...{ seed: 7, d: 16, rank: 0, adapted: '', queryLength: 2000, deviation: 0.1, related: true },
  });
  const tolerance = 0.02;
  const options: SolveOptions = {
    ...{ method: 'low_rank', tolerance, toleranceStated: true, seed: 1, rates: SLOW_EXACT },
    ...{ correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'same' },
  };
  const place = { clock: () => {}, memory: new Lease() };
  const { method, reason, plan, error } = run(forwardJob(layer, [], options, place));
  assert.equal(method, 'low_rank');
  assert.match(
    reason,
    /^Low-rank with 16 features gave .* above the tolerance of 0.02: again with \d+\./,
  );
  assert.ok(plan.features! > 16);
  assert.ok(error.attention_output.estimate!.upper <= tolerance);
});
