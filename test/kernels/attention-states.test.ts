/** Gradients of attention states by the exact kernel, and the error figures of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../workers/job.js';
import { exactJob, exactStages, runExactTask } from '../../workers/kernels/exact/gradient.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { testSeed } from '../support/random.js';
import { type ProblemOptions, randomStates } from './problems.js';
import { distance, named, norm, reference } from './run.js';

const wasm = loadWasm();
const SEED = testSeed(3);

const shapes: Record<string, Omit<ProblemOptions, 'seed'>> = {
  plain: { queryLength: 300, heads: 2 },
  'grouped heads, batch, values of another width': {
    ...{ queryLength: 200, keyLength: 130, batch: 2, heads: 4, keyValueHeads: 2, valueDim: 9 },
  },
  'causal, target, large logits': {
    queryLength: 260,
    spread: 40,
    objective: 'target',
    causal: true,
  },
  'sinks, cap, window, left padding': {
    ...{ queryLength: 150, batch: 2, heads: 2, sinks: true, softcap: 2, spread: 4 },
    mask: {
      left: 30,
      right: 5,
      keys: [
        { first: 60, last: 150 },
        { first: 0, last: 100 },
      ],
    },
  },
  'an item that is all padding': { queryLength: 70, batch: 2, keyLengths: [0, 70] },
};

for (const [name, shape] of Object.entries(shapes)) {
  test(`${name}: the error figures hold, and are no caricature`, () => {
    const problem = randomStates({ ...shape, seed: SEED });
    const job = exactJob(problem, {
      ...{ attentionOutput: false, inputGradients: 'attention' },
      estimate: { rows: 400, seed: SEED },
    });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    const truth = named(reference(problem, 'attention'));
    assert.deepEqual(Object.keys(errors!).sort(), [...truth.keys()].sort());
    for (const [tensor, value] of named(got)) {
      const exact = truth.get(tensor)!;
      const error = distance(value, exact) / norm(exact);
      assert.ok(error < 1e-5, `${tensor}: ${error}; seed ${SEED}`);
      const { relative, upper, rows_sampled } = errors![tensor]!;
      assert.equal(rows_sampled, 400);
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}`);
      assert.ok(relative < 10 * error, `${tensor}: ${relative} for ${error}; seed ${SEED}`);
    }
  });
}

test('a kernel that is off by a hundredth is seen', () => {
  const problem = randomStates({ queryLength: 200, heads: 2, seed: SEED });
  const options = { attentionOutput: false, inputGradients: 'attention' } as const;
  const job = exactStages(problem, { ...options, estimate: { rows: 100, seed: SEED } });
  const { errors, ...got } = runJob(job, (task, stop) => {
    const result = runExactTask(task, wasm, stop);
    if (task.step === 'project' && task.projection === 'k_proj') {
      task.workspace.K.forEach((x, k) => {
        task.workspace.K[k] = 1.01 * x;
      });
    }
    return result;
  });
  const truth = named(reference(problem, 'attention'));
  for (const [tensor, value] of named(got)) {
    const exact = truth.get(tensor)!;
    const error = distance(value, exact) / norm(exact);
    const { relative, upper } = errors![tensor]!;
    assert.ok(error > 1e-3, `${tensor}: ${error}`);
    assert.ok(
      error <= upper && relative < 10 * error,
      `${tensor}: ${error}, ${relative}, ${upper}`,
    );
  }
});
