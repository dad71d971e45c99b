/** The low-rank kernel against exact float64 gradients: values, error bars, order of tasks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Job, runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { lowRankForwardJob } from '../../../workers/kernels/low-rank/forward-job.js';
import { TENSORS } from '../../../workers/kernels/low-rank/head/tensors.js';
import { type LowRankResult, lowRankJob } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import type { AttentionProblem } from '../../../workers/problem.js';
import type { TensorData } from '../../../workers/tensor/tensor.js';
import { testSeed } from '../../support/random.js';
import { distance, norm, reference } from '../run.js';
import { exactGradients, makeProblem, type Recipe } from './support.js';

const wasm = loadWasm();
const rates = { exact: 30e9, lowRank: 30e9 };
type Run = (task: LowRankTask) => unknown;
const run: Run = (task) => runLowRankTask(task, wasm, () => false);

const solve = (recipe: Recipe, features: number, drive = runJob) =>
  solveProblem(makeProblem(recipe), features, recipe.seed, drive);

function solveProblem(problem: AttentionProblem, features: number, seed: number, drive = runJob) {
  const plan = drive(planLowRank(problem, { tolerance: 0.02, seed, rates, features }), run);
  const options = { seed, correction: false, certificate: true, attentionOutput: true };
  const result = drive(lowRankJob(problem, plan, options), run);
  return { problem, plan, result };
}

function gradientOf(
  result: LowRankResult,
  name: (typeof TENSORS)[number],
): Float64Array | undefined {
  const [projection, part] = name.split('.') as ['q_proj', 'lora_A'];
  return result.gradients[projection]?.[part];
}

const base: Recipe = { seed: 11, queryLength: 300, d: 8, deviation: 0.1 };
const cases: Readonly<Record<string, Partial<Recipe>>> = {
  plain: {},
  'a target': { kind: 'target' },
  causal: { causal: true, queryLength: 520 },
  'causal with a target': { causal: true, kind: 'target', tail: 'few huge rows' },
  'more keys than queries, causal': { causal: true, keyLength: 470 },
  'fewer keys than queries, causal': { causal: true, keyLength: 170 },
  'cross-attention, other value width': { keyLength: 410, dv: 12, inputs: 20 },
  'a batch, grouped heads': { batch: 2, heads: 4, keyValueHeads: 2, inputs: 24, kind: 'target' },
  'only q': { adapted: 'q' },
  'only k': { adapted: 'k' },
  'only v': { adapted: 'v', kind: 'target' },
  'one huge key': { tail: 'one huge key', adapted: 'qv' },
  'heavy tails': { tail: 't4' },
  'one direction': { d: 4, spectrum: 'exponential', deviation: 1 },
};

for (const [name, part] of Object.entries(cases)) {
  test(`converges to the exact gradient: ${name}`, () => {
    const recipe = { ...base, ...part };
    const exact = exactGradients(makeProblem(recipe));
    const { result } = solve(recipe, 512);
    for (const tensor of TENSORS) {
      const gradient = gradientOf(result, tensor);
      assert.equal(gradient?.length ?? 0, exact[tensor].length);
      if (!gradient) continue;
      const error = distance(gradient, exact[tensor]) / norm(exact[tensor]);
      assert.ok(error < 0.02, `${tensor}: ${error}`);
    }
  });
}

test('with nothing left out the gradient is exact to float32 rounding', () => {
  const recipe: Recipe = {
    ...{ ...base, d: 3, deviation: 0.1, spectrum: 'flat', rank: 1 },
    ...{ causal: true, kind: 'target', tail: 'few huge rows' },
  };
  const exact = exactGradients(makeProblem(recipe));
  const { result } = solve(recipe, 512);
  for (const tensor of TENSORS) {
    const error = distance(gradientOf(result, tensor)!, exact[tensor]) / norm(exact[tensor]);
    assert.ok(error < 2 ** -24 * 100, `${tensor}: ${error}`);
  }
});

test('the answer does not depend on the order of tasks', () => {
  const backwards = <R>(job: Job<R, LowRankTask>, run: Run): R => {
    let step = job.next([]);
    while (!step.done) {
      const results: unknown[] = [];
      for (let i = step.value.tasks.length - 1; i >= 0; i--) results[i] = run(step.value.tasks[i]);
      step = job.next(results);
    }
    return step.value;
  };
  const recipe: Recipe = { ...base, queryLength: 2600, tail: 'few huge rows', kind: 'target' };
  const forward = solve(recipe, 32);
  const backward = solve(recipe, 32, backwards as typeof runJob);
  assert.deepEqual(forward.result, backward.result);
});

test('the estimate covers the error, the certificate always', () => {
  const seed = testSeed(1);
  const tails = ['normal', 't4', 'few huge rows', 'one huge key'] as const;
  const spectra = ['flat', 'harmonic', 'exponential'] as const;
  let [covered, checked, certified, lost] = [0, 0, 0, 0];
  for (let k = 0; k < 60; k++) {
    const recipe: Recipe = {
      seed: 1000 * seed + k,
      queryLength: 200 + (k % 3) * 150,
      d: [4, 8, 16, 32][k % 4],
      deviation: [0.02, 0.1, 0.3, 1, 3][k % 5],
      tail: tails[(k >> 2) % 4],
      spectrum: spectra[k % 3],
      causal: k % 7 === 0,
      kind: k % 2 ? 'target' : 'grad_output',
    };
    const { problem, result } = solve(recipe, [16, 64, 128][k % 3]);
    if (result.lostRows > 0) {
      lost++;
      continue;
    }
    const exact = exactGradients(problem);
    for (const tensor of TENSORS) {
      const gradient = gradientOf(result, tensor)!;
      const error = distance(gradient, exact[tensor]);
      const { estimate, certificate } = result.errors[tensor]!;
      checked++;
      if (error <= estimate.upper * norm(gradient)) covered++;
      else console.log(tensor, error / norm(exact[tensor]), estimate.upper, JSON.stringify(recipe));
      if (certificate) {
        certified++;
        assert.ok(error <= certificate.frobenius, `${tensor} of ${JSON.stringify(recipe)}`);
      }
    }
  }
  console.log(
    `covered ${covered} of ${checked}, ${certified} certificates, ${lost} problems out of reach`,
  );
  assert.ok(covered >= 0.98 * checked, `${covered} of ${checked}`);
  assert.ok(certified > 0);
});

test('the corrected gradient is unbiased', () => {
  // More rows than are compared whole.
  const recipe: Recipe = {
    ...{ ...base, queryLength: 520, keyLength: 150, deviation: 0.6 },
    ...{ tail: 't4', rank: 1 },
  };
  const { problem, plan } = solve(recipe, 16);
  const exact = exactGradients(problem);
  const draws = 30;
  const totals = TENSORS.map((tensor) => new Float64Array(exact[tensor].length));
  const variance = TENSORS.map(() => 0);
  for (let seed = 0; seed < draws; seed++) {
    const options = { seed, correction: true, certificate: false, attentionOutput: false };
    const result = runJob(lowRankJob(problem, plan, options), run);
    TENSORS.forEach((tensor, t) => {
      const gradient = gradientOf(result, tensor)!;
      gradient.forEach((x, i) => {
        totals[t][i] += x / draws;
      });
      variance[t] += (result.errors[tensor]!.estimate.standard_error * norm(gradient)) ** 2 / draws;
    });
  }
  TENSORS.forEach((tensor, t) => {
    const off = distance(totals[t], exact[tensor]);
    assert.ok(off <= 3 * Math.sqrt(variance[t] / draws), `${tensor}: ${off}, ${variance[t]}`);
  });
});

test('a smaller set of features is a prefix of a larger one', async () => {
  const { selectFeatures } = await import('../../../workers/kernels/low-rank/features/features.js');
  const sigma = Float64Array.from({ length: 12 }, (_, a) => 0.6 / (a + 1));
  const [small, large] = [selectFeatures(sigma, 100), selectFeatures(sigma, 500)];
  assert.deepEqual(small.weight, large.weight.slice(0, 100));
  assert.deepEqual(small.base, large.base.slice(0, 100));
  for (let f = 1; f < 500; f++) {
    assert.ok(large.base[f] < f && large.weight[f] <= large.weight[f - 1]);
  }
});

interface HugeRows {
  /** So many times as large as other rows: one of the queries, one key and one row of the target. */
  readonly factors: readonly [query: number, key: number, target: number];
  readonly recipe?: Partial<Recipe>;
}
const hugeRows: Readonly<Record<string, HugeRows>> = {
  'logits that lose digits': { factors: [1000, 1000, 1e5] },
  'a softmax that is saturated': { factors: [1e4, 1, 1e5] },
  'logits of which float32 holds no fraction': {
    factors: [1e5, 1e4, 1e6],
    recipe: { adapted: 'v', deviation: 0.3, related: false },
  },
};

for (const [name, { factors, recipe }] of Object.entries(hugeRows)) {
  test(`a limit holds where one row that is set aside makes the gradient, with ${name}`, () => {
    const problem = makeProblem({
      ...{ seed: 2, queryLength: 600, d: 8, rank: 2, adapted: 'qkv' },
      ...{ deviation: 0.1, kind: 'target', related: true, ...recipe },
    });
    const { inputs, objective } = problem;
    const scale = ({ data, shape }: typeof inputs.query, row: number, factor: number) => {
      const width = data.length / shape[0]! / shape[1]!;
      for (let c = row * width; c < (row + 1) * width; c++) data[c]! *= factor;
    };
    inputs.query.data.forEach((x, i, all) => {
      all[i] = x * x - 1;
    });
    const [query, key, target] = factors;
    scale(inputs.query, 7, query);
    scale(inputs.key, 11, key);
    scale(objective.tensor, 7, target);
    const options = { tolerance: 0.1, seed: 3, rates: { exact: 1e9, lowRank: 1e10 } };
    const plan = runJob(planLowRank(problem, options), run);
    assert.ok(plan.outlierQueries > 0);
    const draws = { seed: 8, correction: false, certificate: false, attentionOutput: false };
    const result = runJob(lowRankJob(problem, plan, draws), run);
    assert.equal(result.lostRows, 0);
    const exact = exactGradients(problem);
    for (const tensor of TENSORS.filter((one) => exact[one].length > 0)) {
      const gradient = gradientOf(result, tensor)!;
      const error = distance(gradient, exact[tensor]) / norm(gradient);
      const { upper } = result.errors[tensor]!.estimate;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}`);
    }
  });
}

test('a limit of the output holds where one row that is set aside has logits that lose digits', () => {
  const problem = makeProblem({ ...base, seed: 3, queryLength: 600 });
  const { query, key } = problem.inputs;
  const width = query.shape[2]!;
  for (let c = 7 * width; c < 8 * width; c++) query.data[c]! *= 1e5;
  // Keys in pairs, between which a rounded logit decides.
  key.data.forEach((x, i) => {
    if (Math.floor(i / width) % 2 === 0) key.data[i + width] = x * (1 + 1e-5);
  });
  const options = { tolerance: 0.1, seed: 3, rates: { exact: 1e9, lowRank: 1e10 } };
  const plan = runJob(planLowRank(problem, { ...options, features: 512, outputOnly: true }), run);
  assert.ok(plan.outlierQueries > 0);
  const { attentionOutput, error } = runJob(lowRankForwardJob(problem, plan, { seed: 8 }), run);
  const off = distance(attentionOutput, reference(problem).attentionOutput!);
  assert.ok(
    off <= error.upper * norm(attentionOutput),
    `${off / norm(attentionOutput)} above ${error.upper}`,
  );
});

/** Every number of some tensors times a factor. */
const tiny: Readonly<Record<string, (problem: AttentionProblem, scale: Scale) => void>> = {
  'the upstream gradient': ({ objective }, scale) => scale(objective.tensor, 1e-42),
  'queries, keys and values': ({ inputs }, scale) => {
    for (const states of Object.values(inputs)) scale(states, 1e-15);
  },
  queries: ({ inputs }, scale) => scale(inputs.query, 1e-38),
};
type Scale = (tensor: { readonly data: TensorData }, factor: number) => void;

for (const [name, change] of Object.entries(tiny)) {
  test(`a limit holds where float32 has few digits or none: ${name}`, () => {
    const problem = makeProblem({ ...base, queryLength: 600, rank: 2 });
    const scale: Scale = ({ data }, factor) => {
      data.forEach((x, i) => {
        data[i] = factor * x;
      });
    };
    for (const { bias } of Object.values(problem.projections)) scale(bias!, 0);
    change(problem, scale);
    const exact = exactGradients(problem);
    const { result } = solveProblem(problem, 64, 11);
    assert.equal(result.lostRows, 0);
    for (const tensor of TENSORS) {
      const gradient = gradientOf(result, tensor)!;
      const { upper } = result.errors[tensor]!.estimate;
      const size = norm(gradient);
      const error = size > 0 ? distance(gradient, exact[tensor]) / size : 1;
      assert.ok(error <= upper && upper < Infinity, `${tensor}: ${error} above ${upper}`);
    }
  });
}

test('a limit holds where the target is nearly the output, and what the values have in common is large', () => {
  const problem = makeProblem({
    ...{ seed: 4, queryLength: 600, d: 8, rank: 2, adapted: 'qkv', deviation: 0.1 },
    ...{ kind: 'target', related: true, mean: 30 },
  });
  const { attentionOutput } = reference(problem);
  const { data } = problem.objective.tensor;
  data.forEach((y, i) => {
    data[i] = attentionOutput![i]! + 1e-4 * y;
  });
  const exact = exactGradients(problem);
  const { result } = solveProblem(problem, 512, 8);
  for (const tensor of TENSORS) {
    const gradient = gradientOf(result, tensor)!;
    const error = distance(gradient, exact[tensor]) / norm(gradient);
    const { upper } = result.errors[tensor]!.estimate;
    assert.ok(error <= upper, `${tensor}: ${error} above ${upper}`);
  }
});

test('a gradient that is 0, since its adapter begins at 0, has no error', () => {
  const problem = makeProblem({ ...base, queryLength: 600 });
  for (const { adapter } of Object.values(problem.projections)) adapter!.B.data.fill(0);
  const { result } = solveProblem(problem, 64, 11);
  for (const tensor of TENSORS.filter((one) => one.endsWith('lora_A'))) {
    assert.equal(norm(gradientOf(result, tensor)!), 0);
    assert.equal(result.errors[tensor]!.estimate.upper, 0);
  }
});
