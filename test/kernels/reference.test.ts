import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelledError, runJob } from '../../workers/job.js';
import { referenceForwardJob, referenceNormsJob } from '../../workers/kernels/reference/forward.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import { runReferenceTask } from '../../workers/kernels/reference/operations.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { type ProblemOptions, randomProblem, randomStates } from './problems.js';

const solve = (problem: AttentionProblem) =>
  runJob(referenceJob(problem, { attentionOutput: true }), runReferenceTask);

const SMALL = { headDim: 8, inFeatures: 12, ranks: { q: 2, k: 2, v: 2 } };
const CASES: Record<string, Omit<ProblemOptions, 'seed'>> = {
  'self-attention': { queryLength: 7 },
  'causal, two heads': { queryLength: 6, heads: 2, headDim: 4, causal: true },
  'cross-attention, dv unlike d': { queryLength: 5, keyLength: 8, headDim: 6, valueDim: 3 },
  'causal with fewer keys than queries': { queryLength: 8, keyLength: 5, causal: true },
  'four heads share two, batch of two': {
    ...{ batch: 2, queryLength: 4, heads: 4, keyValueHeads: 2, headDim: 3 },
  },
  'more rows than a block': {
    ...{ queryLength: 70, inFeatures: 4, headDim: 3, ranks: { q: 1, k: 1, v: 1 } },
  },
};

for (const [name, shape] of Object.entries(CASES)) {
  test(`central differences of the loss: ${name}`, () => {
    const seed = 20260101;
    // In float64: a small step in one entry is not rounded away.
    const problem = randomProblem({
      ...{ ...SMALL, ...shape, seed, objective: 'target', dtype: 'float64' },
    });
    const { gradients } = solve(problem);
    for (const projection of ['q_proj', 'k_proj', 'v_proj'] as const) {
      const adapter = problem.projections[projection].adapter;
      const gradient = gradients[projection];
      assert.ok(adapter && gradient);
      for (const [tensor, expected] of [
        [adapter.A.data, gradient.lora_A],
        [adapter.B.data, gradient.lora_B],
      ] as const) {
        const scale = Math.max(...expected.map(Math.abs));
        for (const k of [0, tensor.length >> 1, tensor.length - 1]) {
          const [value, step] = [tensor[k], 1e-5];
          tensor[k] = value + step;
          const above = solve(problem).loss as number;
          tensor[k] = value - step;
          const below = solve(problem).loss as number;
          tensor[k] = value;
          const difference = (above - below) / (2 * step);
          // Central differences: truncation of order step^2, rounding of order ulp(loss) / step.
          const floor = (Math.abs(above) * 2 ** -52) / step;
          assert.ok(
            Math.abs(difference - expected[k]) <= 1e-7 * scale + 10 * floor,
            `${projection}[${k}]: ${expected[k]} against ${difference} (seed ${seed})`,
          );
        }
      }
    }
  });
}

test('central differences of the loss by the inputs: rotary positions, padding, shared heads', () => {
  const options = { queryLength: 6, heads: 2, keyValueHeads: 1, headDim: 4, inFeatures: 5 };
  for (const causal of [false, true]) {
    const problem = randomProblem({
      ...{ ...options, seed: 9, batch: 2, causal, rotary: true, bias: true, keyLengths: [6, 3] },
      ...{ objective: 'target', dtype: 'float64', spread: 3 },
    });
    const gradients = runJob(
      referenceJob(problem, { attentionOutput: false, inputGradients: 'self' }),
      runReferenceTask,
    ).inputGradients!;
    const X = problem.inputs.query.data;
    const expected = gradients.hidden_states!;
    assert.equal(expected.length, X.length);
    for (let k = 0; k < X.length; k++) {
      const [value, step] = [X[k], 1e-5];
      X[k] = value + step;
      const above = solve(problem).loss as number;
      X[k] = value - step;
      const below = solve(problem).loss as number;
      X[k] = value;
      const difference = (above - below) / (2 * step);
      assert.ok(Math.abs(difference - expected[k]) <= 1e-7, `${k}: ${expected[k]}, ${difference}`);
    }
  }
});

test('rows of logits at +-10,000, one key and equal keys stay finite', () => {
  const huge = randomProblem({ ...SMALL, seed: 3, queryLength: 5, dtype: 'float64' });
  const scaled = { ...huge, scaling: 1e4 };
  const oneKey = randomProblem({ ...SMALL, seed: 4, queryLength: 3, keyLength: 1 });
  for (const problem of [scaled, oneKey]) {
    const { gradients, attentionOutput } = solve(problem);
    for (const gradient of Object.values(gradients)) {
      assert.ok([...gradient.lora_A, ...gradient.lora_B].every(Number.isFinite));
    }
    assert.ok(attentionOutput?.every(Number.isFinite));
  }
});

test('a row that is saturated keeps its digits: one key has all but 1e-14 of the weight, beside values of 1e10', () => {
  const [logit, keys] = [38, 200];
  for (const heavy of [0, 70, 199]) {
    for (const sink of [undefined, 40]) {
      const states = randomStates({
        ...{ seed: 7, queryLength: 1, keyLength: keys, headDim: 1, dtype: 'float64' },
        objective: 'grad_output',
      });
      const { query, key, value } = states.inputs;
      const G = 0.7;
      query.data.set([1]);
      key.data.fill(0).set([logit], heavy);
      value.data.fill(-3e9).set([1e10], heavy);
      states.objective.tensor.data.set([G]);
      const sinks = sink === undefined ? null : { ...query, data: Float64Array.of(sink) };
      const problem = { ...states, scaling: 1, ...(sinks && { sinks }) };
      const outputs = { attentionOutput: false, inputGradients: 'attention' } as const;
      const result = runJob(referenceJob(problem, outputs), runReferenceTask);
      // The other keys are alike: P of the heavy one, of all others, of the sink.
      const [others, rest] = [(keys - 1) * Math.exp(-logit), sinks ? Math.exp(sink! - logit) : 0];
      const P = 1 / (1 + others + rest);
      const expected = logit * P * P * (others * G * (1e10 + 3e9) + rest * G * 1e10);
      const [found] = result.inputGradients!.query!;
      assert.ok(
        Math.abs(found! - expected) <= 1e-13 * expected,
        `${found} and not ${expected}: key ${heavy}, sink ${sink}`,
      );
    }
  }
});

test('with lora_B at zero the gradient of lora_A is exactly zero', () => {
  const problem = randomProblem({ ...SMALL, seed: 5, queryLength: 6 });
  for (const { adapter } of Object.values(problem.projections)) adapter?.B.data.fill(0);
  for (const { lora_A, lora_B } of Object.values(solve(problem).gradients)) {
    assert.ok(lora_A.every((x) => x === 0));
    assert.ok(lora_B.some((x) => x !== 0));
  }
});

test('no adapter, no gradient', () => {
  const { gradients } = solve(randomProblem({ ...SMALL, seed: 6, ranks: { v: 2 } }));
  assert.deepEqual(Object.keys(gradients), ['v_proj']);
});

test('a task stops at once, and asks with every two rows of its products', () => {
  const problem = randomProblem({ queryLength: 300, headDim: 64, inFeatures: 700, seed: 3 });
  let [polls, tasks] = [0, 0];
  runJob(referenceJob(problem, { attentionOutput: true }), (task) => {
    assert.throws(() => runReferenceTask(task, () => true), CancelledError);
    tasks++;
    runReferenceTask(task, () => {
      polls++;
      return false;
    });
  });
  // Q, K and V take two rows of products at a time, of 64 columns and 256 inputs at most.
  assert.ok(polls > 3 * 150 * (700 / 256) + tasks, `${polls} polls in ${tasks} tasks`);
});

test('every stage tells how far the work is, from nothing to all of it', () => {
  const problem = randomProblem({
    seed: 3,
    queryLength: 400,
    heads: 4,
    headDim: 32,
    inFeatures: 128,
  });
  const jobs = {
    gradient: referenceJob(problem, { attentionOutput: false }),
    forward: referenceForwardJob(problem),
    norms: referenceNormsJob(problem),
  };
  for (const [name, job] of Object.entries(jobs)) {
    let reached = 0;
    let last = 0;
    for (let step = job.next([]); !step.done; step = job.next([])) {
      const { span } = step.value;
      assert.ok(span, name);
      assert.equal(span[0], reached, name);
      assert.ok(span[1] >= span[0], name);
      [last, reached] = span;
    }
    assert.equal(reached, 1, name);
    // What it all comes to was known: the last of few stages is not most of the work.
    assert.ok(last > 0.5 || name === 'norms', `${name}: ${last}`);
  }
});
