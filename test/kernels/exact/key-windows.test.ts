/** Keys that do not fit memory come in windows: the answer is the same, bit by bit. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { makePlan, TILES_AT_ONCE } from '../../../workers/kernels/attention/plan.js';
import { type ExactOptions, exactStages } from '../../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../../workers/kernels/exact/run.js';
import { KEYS } from '../../../workers/kernels/inner/block.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { type ProblemOptions, randomProblem } from '../problems.js';

const wasm = loadWasm();
const STRETCH = KEYS * TILES_AT_ONCE;

const shapes: Record<string, Omit<ProblemOptions, 'seed'>> = {
  'upstream gradient': { queryLength: 70, keyLength: 2 * STRETCH + 100 },
  'logits that need a row maximum': { queryLength: 70, keyLength: 2 * STRETCH + 1, spread: 4000 },
  target: { queryLength: 70, keyLength: 3 * STRETCH, objective: 'target' },
  'target, large logits': {
    ...{ queryLength: 70, keyLength: STRETCH + 30, objective: 'target', spread: 4000 },
  },
  'causal, grouped heads, rotary, padding': {
    ...{ queryLength: STRETCH + 70, batch: 2, heads: 2, keyValueHeads: 1, headDim: 8 },
    ...{ causal: true, rotary: true, keyLengths: [STRETCH + 70, 40] },
  },
  'values alone': { queryLength: 70, keyLength: STRETCH + 1000, ranks: { v: 4 } },
};

for (const [name, shape] of Object.entries(shapes)) {
  for (const inputGradients of [undefined, 'cross'] as const) {
    test(`${name}${inputGradients ? ', input gradients' : ''}: windows of keys change nothing`, () => {
      const problem = randomProblem({ ...shape, seed: 7 });
      const options: ExactOptions = {
        ...{ attentionOutput: true, inputGradients },
        estimate: { rows: 10, seed: 2 },
      };
      const plan = makePlan(problem, options);
      assert.ok(plan.keys > STRETCH && plan.window >= plan.keys);
      const run = (window: number) =>
        runJob(exactStages(problem, options, { ...plan, window }), (task) =>
          runExactTask(task, wasm, () => false),
        );
      const [whole, windows] = [run(plan.window), run(STRETCH)];
      assert.deepEqual(windows, whole);
    });
  }
}
