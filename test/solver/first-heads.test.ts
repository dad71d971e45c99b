/** auto looks at a few rows, then at the first heads, and plans the others only where low-rank may keep the tolerance. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { choose } from '../../src/solver/choose.js';
import type { ChooseOptions } from '../../src/solver/choose-low-rank.js';
import { runJob, type Task } from '../../workers/job.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { type LowRankTask, runLowRankTask } from '../../workers/kernels/low-rank/task.js';
import { makeProblem, type Recipe } from '../kernels/low-rank/support.js';

const wasm = loadWasm();
const never = () => false;
const HEADS = 4;
const size = { seed: 3, d: 8, rank: 2, heads: HEADS, queryLength: 8192, adapted: 'qv' } as const;

/** The choice, and how many heads have had a trial. */
function chosen(
  recipe: Pick<Recipe, 'deviation' | 'keyValueHeads' | 'batch'>,
  method: ChooseOptions['method'] = 'auto',
) {
  const options: ChooseOptions = {
    ...{ method, tolerance: 0.02, seed: 1, rates: { exact: 1e8, lowRank: 1e9 } },
    ...{ correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'same' },
  };
  let trials = 0;
  const run = (task: Task) => {
    const { step } = task as LowRankTask;
    if (step === 'trial') trials++;
    return runLowRankTask(task as LowRankTask, wasm, never);
  };
  const problem = makeProblem({ ...size, ...recipe, kind: 'grad_output' });
  return { ...runJob(choose(problem, options), run), trials };
}

const MISSED =
  /^With \d+ features, the most that pay, .* above the tolerance of 2\.0 %\. Drawn keys pay for tolerances of 0\.03 and more\.$/;

test('where logits vary far too much no head is tried', () => {
  const { kernel, reason, lowRank, trials } = chosen({ deviation: 4 });
  assert.equal(kernel, 'exact');
  assert.equal(lowRank, null);
  assert.match(reason, MISSED);
  assert.equal(trials, 0);
});

test('where the first head would miss the tolerance no other is planned', () => {
  const { kernel, reason, lowRank, trials } = chosen({ deviation: 0.7 });
  assert.equal(kernel, 'exact');
  assert.equal(lowRank, null);
  assert.match(reason, MISSED);
  assert.ok(trials > 0 && trials < HEADS, `${trials} trials`);
});

for (const [keyValueHeads, batch] of [
  [HEADS, 1],
  [1, 1],
  [HEADS, 2],
] as const) {
  test(`where it keeps it all heads are planned, each once: ${keyValueHeads} key/value heads, batch ${batch}`, () => {
    const recipe = { deviation: 0.2, keyValueHeads, batch };
    const { kernel, lowRank, trials } = chosen(recipe);
    const asked = chosen(recipe, 'low_rank');
    assert.equal(kernel, 'low_rank');
    assert.deepEqual(lowRank, asked.lowRank);
    assert.equal(trials, asked.trials);
  });
}

test('who asks for low-rank gets the plan of all heads', () => {
  const { lowRank } = chosen({ deviation: 4 }, 'low_rank');
  assert.equal(lowRank!.heads.length, HEADS);
});
