/** What a low-rank plan is made from: norms, the largest rows, the errors of a trial. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { kthLargest, largest } from '../../../workers/kernels/low-rank/features/select.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';
import { assertNorms } from '../norms.js';
import { type ProblemOptions, randomProblem } from '../problems.js';
import { reference } from '../run.js';

const wasm = loadWasm();
const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);
const rates = { exact: 30e9, lowRank: 30e9 };

const cases: Record<string, Omit<ProblemOptions, 'seed'>> = {
  'one head': { queryLength: 300, bias: true },
  'no multiple of a block, fewer keys': {
    queryLength: 401,
    keyLength: 130,
    headDim: 9,
    valueDim: 5,
  },
  'grouped heads, batch': { queryLength: 150, heads: 4, keyValueHeads: 2, batch: 2 },
  'frozen queries': { queryLength: 140, ranks: { k: 3 } },
  rotary: { queryLength: 200, rotary: true, heads: 2, headDim: 8 },
};

for (const [what, options] of Object.entries(cases)) {
  test(`the norms of a plan are those of the composed matrices: ${what}`, () => {
    const seed = testSeed(1);
    const problem = randomProblem({ ...options, seed });
    const truth = reference(problem).headNorms;
    for (const outputOnly of [false, true]) {
      const planning = planLowRank(problem, { seed, tolerance: 0.01, rates, outputOnly });
      const { headNorms } = runJob(planning, run);
      assertNorms(headNorms, truth, `seed ${seed}, output only: ${outputOnly}`);
    }
  });
}

test('the largest values are found as by sorting', () => {
  const seed = testSeed(1);
  const random = new Random(seed);
  for (let k = 0; k < 200; k++) {
    const n = 1 + random.integer(60);
    const range = 1 + random.integer(40);
    const values = Float64Array.from({ length: n }, () => random.integer(range) - range / 2);
    if (k % 5 === 0) values[random.integer(n)] = -Infinity;
    const sorted = values.slice().sort().reverse();
    for (let i = 1; i <= n; i++) assert.equal(kthLargest(values, i), sorted[i - 1]);
    const wanted = random.integer(n + 5);
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);
    const expected = order.slice(0, wanted).sort((a, b) => a - b);
    assert.deepEqual(Array.from(largest(values, wanted)), expected);
  }
  assert.equal(largest(new Float64Array(0), 3).length, 0);
});
