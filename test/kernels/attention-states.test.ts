/** Gradients of attention states by the exact kernel, and the error figures of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../workers/job.js';
import { exactJob, exactStages } from '../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../workers/kernels/exact/run.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import { keyRanges } from '../../workers/mask.js';
import type { KnownForward } from '../../workers/problem.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import { testSeed } from '../support/random.js';
import { logSumExp, type ProblemOptions, randomStates, tensor } from './problems.js';
import { distance, exact, named, norm, reference } from './run.js';

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
      keys: keyRanges([
        { first: 60, last: 150 },
        { first: 0, last: 100 },
      ]),
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

for (const [name, shape] of Object.entries({
  ...shapes,
  'logits above the limit, target': {
    queryLength: 150,
    heads: 2,
    spread: 60,
    causal: true,
    objective: 'target',
  },
  'logits above the limit': { queryLength: 150, keyLength: 130, spread: 60, sinks: true },
} as typeof shapes)) {
  test(`${name}: what the client knows of its forward pass is used, or refused`, () => {
    const problem = randomStates({ ...shape, seed: SEED });
    const truth = reference(problem, 'attention');
    const output = tensor(
      problem.objective.tensor.shape as number[],
      'float32',
      (k) => truth.attentionOutput![k]!,
    );
    const known = { logSumExp: logSumExp(problem), output };
    const run = (known: KnownForward) => exact({ ...problem, known }, wasm, false, 'attention');
    const got = run(known);
    assert.equal(got.contradiction, null);
    const without = named(exact(problem, wasm, false, 'attention'));
    const all = named(truth);
    for (const [tensor, value] of named(got)) {
      const exact = all.get(tensor)!;
      const [error, plain] = [value, without.get(tensor)!].map(
        (x) => distance(x, exact) / norm(exact),
      );
      assert.ok(error! <= 3 * plain! + 1e-6, `${tensor}: ${error}, without ${plain}; seed ${SEED}`);
    }
    if (truth.loss !== null) assert.ok(Math.abs(got.loss! / truth.loss - 1) < 1e-5);
    const off = (x: Tensor, by: (value: number, k: number) => number): Tensor => ({
      ...x,
      data: x.data.map((value, k) => by(value, k)),
    });
    // The last row of the last head, which sees keys in every case.
    const last = known.logSumExp.data.length - 1;
    const wrong = { logSumExp: off(known.logSumExp, (x, k) => (k === last ? x + 1 : x)) };
    const place = { batchItem: problem.dims.batch - 1, head: problem.dims.heads - 1 };
    const row = problem.dims.queryLength - 1;
    assert.deepEqual(run(wrong).contradiction, { name: 'log_sum_exp', ...place, row });
    if (problem.objective.kind !== 'target') return;
    const other = run({ output: off(output, (x, k) => (k >= output.data.length - 8 ? x + 1 : x)) });
    assert.equal(other.contradiction?.name, 'attention_output');
    assert.equal(other.contradiction?.row, row);
  });
}

test('gradients that came out as 0 are off by all of themselves, unless float32 knows no number of theirs', () => {
  const limits = (scale: number, keyLength: number) => {
    const problem = randomStates({ queryLength: 8, keyLength, headDim: 2, seed: SEED });
    // Keys so far apart that a row of the softmax is 1 and else below what float32 adds to it.
    const { data } = problem.inputs.key;
    for (let j = 0; j < keyLength; j++) data.set([scale * j, 0], 2 * j);
    for (let i = 0; i < 8; i++) problem.inputs.query.data.set([1, 0], 2 * i);
    const options = { attentionOutput: false, inputGradients: 'attention' } as const;
    const job = exactJob(problem, { ...options, estimate: { rows: 8, seed: SEED } });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    assert.ok(
      named(got)
        .get('query')!
        .every((x) => x === 0),
    );
    return errors!.query!.upper;
  };
  assert.equal(limits(110, 3), 1);
  assert.equal(limits(1000, 3), 0);
  assert.equal(limits(110, 1), 0);
});

test('long rows that carry no more than others are surely drawn: more is rounded of their logits', () => {
  const [length, d] = [1136, 32];
  const size = { queryLength: length, headDim: d, causal: true, spread: 0.02 };
  const problem = randomStates({ ...size, seed: 3 });
  const [Q, K] = [problem.inputs.query.data, problem.inputs.key.data];
  // A massive channel, and some queries that look for a key.
  for (let i = 0; i < length; i++) {
    Q[i * d + 9]! += 2;
    K[i * d + 9]! += 20;
  }
  for (const [row, key] of [
    [137, 40],
    [360, 706],
    [742, 345],
    [1005, 13],
    [1118, 900],
  ] as const) {
    for (let c = 0; c < d; c++) Q[row * d + c] = 3 * K[key * d + c]!;
  }
  const truth = named(reference(problem, 'attention')).get('key')!;
  for (let seed = 1; seed <= 16; seed++) {
    const job = exactJob(problem, {
      ...{ attentionOutput: false, inputGradients: 'attention' },
      estimate: { rows: 16, seed },
    });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    const error = distance(named(got).get('key')!, truth) / norm(truth);
    const { upper } = errors!.key!;
    assert.ok(error <= upper, `seed ${seed}: ${error} above ${upper}`);
  }
});

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
