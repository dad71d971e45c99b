/**
 * What a layer has beside its projections, in the low-rank kernel: with features enough its gradients
 * are those of the float64 reference, and the error bars of fewer features hold.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Job, runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { lowRankForwardJob } from '../../../workers/kernels/low-rank/forward-job.js';
import { type LowRankResult, lowRankJob } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import type { AttentionKind, AttentionProblem } from '../../../workers/problem.js';
import { testSeed, uniform } from '../../support/random.js';
import { type ProblemOptions, randomProblem } from '../problems.js';
import { distance, named, norm, reference } from '../run.js';

const wasm = loadWasm();
const rates = { exact: 30e9, lowRank: 30e9 };
const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);

function lowRank(
  problem: AttentionProblem,
  features: number,
  seed = 1,
  inputGradients?: AttentionKind,
): LowRankResult {
  const planOptions = { tolerance: 0.02, seed, rates, features };
  const plan = runJob(
    planLowRank(problem, { ...planOptions, inputGradients: inputGradients !== undefined }),
    run,
  );
  const options = { seed, correction: false, certificate: true, inputGradients };
  return runJob(lowRankJob(problem, plan, { ...options, attentionOutput: true }), run);
}

type Options = Omit<ProblemOptions, 'seed'> & { inputs?: AttentionKind };

const small: Options = { queryLength: 300, headDim: 8, spread: 0.05 };
const cases: Readonly<Record<string, Options>> = {
  padding: { keyLengths: [170] },
  'padding in a batch, down to one key': { keyLengths: [1, 300, 9], batch: 3, heads: 2 },
  'padding, causal': { keyLengths: [290, 131], batch: 2, causal: true, objective: 'target' },
  'padding, causal, fewer keys than queries': {
    ...{ keyLengths: [200, 130], batch: 2, keyLength: 210, causal: true },
  },
  rotary: { rotary: true },
  'rotary, q and v only': { rotary: true, ranks: { q: 8, v: 8 }, queryLength: 150 },
  'rotary, k only': { rotary: true, ranks: { k: 8 }, queryLength: 150, objective: 'target' },
  'rotary, v only': { rotary: true, ranks: { v: 3 }, queryLength: 90 },
  'partial rotary, causal, grouped heads, batch': {
    ...{ rotary: 4, causal: true, heads: 4, keyValueHeads: 2, batch: 2, queryLength: 330 },
    ...{ bias: true, headDim: 6 },
  },
  'input gradients': { inputs: 'self' },
  'input gradients, causal, values only adapted': { inputs: 'self', causal: true, ranks: { v: 3 } },
  'input gradients, cross': {
    ...{ inputs: 'cross', queryLength: 190, keyLength: 310, headDim: 6, valueDim: 10 },
    ...{ objective: 'target', bias: true, heads: 2 },
  },
  everything: {
    ...{ inputs: 'self', rotary: true, causal: true, keyLengths: [350, 183], batch: 2 },
    ...{ queryLength: 350, heads: 4, keyValueHeads: 2, bias: true, objective: 'target' },
  },
  'padding, more keys than queries': { keyLengths: [450], keyLength: 500, objective: 'target' },
};

function forward(problem: AttentionProblem, features: number, seed = 1) {
  const plan = runJob(planLowRank(problem, { tolerance: 0.02, seed, rates, features }), run);
  return runJob(lowRankForwardJob(problem, plan, { seed }), run);
}

/** Relative to the truth; float32 leaves a remainder where the truth is 0. */
function assertClose(result: LowRankResult, truth: ReturnType<typeof reference>, what: string) {
  const expected = named(truth);
  assert.deepEqual([...named(result).keys()].sort(), [...expected.keys()].sort());
  const largest = Math.max(...[...expected.values()].map(norm));
  for (const [name, gradient] of named(result)) {
    const error = distance(gradient, expected.get(name)!);
    const limit = 0.02 * norm(expected.get(name)!) + 1e-6 * largest;
    assert.ok(error <= limit, `${what}: ${name}: ${error}, allowed ${limit}`);
  }
  const output = truth.attentionOutput!;
  assert.ok(distance(result.attentionOutput!, output) <= 0.02 * norm(output), `${what}: output`);
}

for (const [name, { inputs, ...options }] of Object.entries(cases)) {
  test(`converges to the exact gradient: ${name}`, () => {
    const problem = randomProblem({ seed: 8, ...small, ...options });
    assertClose(lowRank(problem, 512, 1, inputs), reference(problem, inputs), name);
  });
}

test('the output alone is that of the gradient, and its limit covers the error', (t) => {
  const seed = testSeed(7);
  let [covered, checked] = [0, 0];
  for (let round = 0; round < 18; round++) {
    const options: Options = {
      ...{ queryLength: 40 + 37 * (round % 9), heads: 1 + (round % 2), causal: round % 3 === 0 },
      ...{ rotary: round % 4 === 1, headDim: 8, spread: [0.05, 0.3, 1][round % 3] },
      ...(round % 5 === 0 && { keyLengths: [30] }),
      ...(round % 7 === 0 && { ranks: {} }),
    };
    const problem = randomProblem({ seed: 10 * seed + round, ...options });
    const features = [16, 64][round % 2];
    const { attentionOutput, error, lostRows } = forward(problem, features);
    const truth = reference(problem).attentionOutput!;
    const far = distance(attentionOutput, truth);
    if (lostRows > 0) continue;
    checked++;
    if (far <= error.upper * norm(attentionOutput)) covered++;
    else t.diagnostic(`${far}, ${error.upper * norm(attentionOutput)}: ${JSON.stringify(options)}`);
    const whole = lowRank(problem, features).attentionOutput!;
    assert.ok(distance(attentionOutput, whole) <= 2 ** -20 * norm(whole), JSON.stringify(options));
  }
  t.diagnostic(`covered ${covered} of ${checked}`);
  assert.ok(checked >= 15 && covered >= 0.98 * checked - 1, `${covered} of ${checked}`);
});

test('the answer does not depend on the order of tasks', () => {
  const backwards = (task: readonly LowRankTask[]) => {
    const results: unknown[] = [];
    for (let i = task.length - 1; i >= 0; i--) results[i] = run(task[i]);
    return results;
  };
  const drive = <R>(job: Job<R, LowRankTask>): R => {
    let step = job.next([]);
    while (!step.done) step = job.next(backwards(step.value.tasks));
    return step.value;
  };
  const problem = randomProblem({
    ...{ seed: 3, queryLength: 4300, heads: 2, keyValueHeads: 1, headDim: 8, spread: 0.1 },
    ...{ rotary: true, causal: true, keyLengths: [4250] },
  });
  const planOptions = { tolerance: 0.02, seed: 1, rates, features: 24, inputGradients: true };
  const outputs = { attentionOutput: true, inputGradients: 'self' as const };
  const options = { seed: 1, correction: true, certificate: true, ...outputs };
  const solve = (by: typeof drive) =>
    by(lowRankJob(problem, by(planLowRank(problem, planOptions)), options));
  assert.deepEqual(
    solve(drive),
    solve((job) => runJob(job, run)),
  );
});

test('the corrected gradient is unbiased: rotary positions, all adapted, causal', () => {
  const problem = randomProblem({
    ...{ seed: 4, queryLength: 280, headDim: 8, spread: 0.6, rotary: true, causal: true },
    ...{ batch: 2, heads: 4, keyValueHeads: 2 },
    ranks: { q: 1, k: 1, v: 1 },
  });
  const truth = named(reference(problem, 'self'));
  const draws = 20;
  const totals = new Map<string, Float64Array>();
  const variance = new Map<string, number>();
  const planOptions = { tolerance: 0.02, seed: 1, rates, features: 16, inputGradients: true };
  const plan = runJob(planLowRank(problem, planOptions), run);
  for (let seed = 0; seed < draws; seed++) {
    const options = { seed, correction: true, certificate: false };
    const outputs = { attentionOutput: false, inputGradients: 'self' as const };
    const result = runJob(lowRankJob(problem, plan, { ...options, ...outputs }), run);
    for (const [name, gradient] of named(result)) {
      const error = result.errors[name as keyof typeof result.errors];
      if (!error) continue;
      const total = totals.get(name) ?? new Float64Array(gradient.length);
      totals.set(name, total);
      gradient.forEach((x, i) => {
        total[i] += x / draws;
      });
      const square = (error.estimate.standard_error * norm(gradient)) ** 2 / draws;
      variance.set(name, (variance.get(name) ?? 0) + square);
    }
  }
  assert.equal(totals.size, 6);
  for (const [name, total] of totals) {
    const off = distance(total, truth.get(name)!);
    const limit = 3 * Math.sqrt(variance.get(name)! / draws);
    assert.ok(off <= limit, `${name}: ${off}, allowed ${limit}`);
  }
});

test('random layers: the estimate covers the error, the certificate always', (t) => {
  const seed = testSeed(5);
  const next = uniform(seed);
  const integer = (low: number, high: number) => low + Math.floor(next() * (high - low + 1));
  const maybe = () => next() < 0.5;
  let [covered, checked, certified, lost] = [0, 0, 0, 0];
  for (let round = 0; round < 24; round++) {
    const [keyValueHeads, batch] = [integer(1, 2), integer(1, 2)];
    const queryLength = integer(1, 400);
    const rotary = maybe() && (maybe() || 4);
    const keyLength = rotary || maybe() ? queryLength : integer(1, 400);
    const kind = maybe() ? undefined : keyLength === queryLength && maybe() ? 'self' : 'cross';
    const options = {
      ...{ seed: 100 * seed + round, batch, keyValueHeads, queryLength, keyLength, rotary },
      heads: keyValueHeads * integer(1, 2),
      headDim: rotary ? 2 * integer(2, 12) : integer(3, 24),
      valueDim: integer(3, 24),
      ranks: { q: integer(0, 6), k: integer(0, 6), v: integer(0, 6) },
      causal: maybe(),
      bias: maybe(),
      objective: maybe() ? ('target' as const) : ('grad_output' as const),
      spread: [0.03, 0.2, 0.6][integer(0, 2)],
      ...(maybe() && { keyLengths: Array.from({ length: batch }, () => integer(1, keyLength)) }),
    };
    const problem = randomProblem(options);
    const result = lowRank(problem, [16, 64, 128][integer(0, 2)], round, kind);
    if (result.lostRows > 0) {
      lost++;
      continue;
    }
    const truth = named(reference(problem));
    // Where the truth is 0 float32 leaves a remainder.
    const remainder = 1e-6 * Math.max(...[...truth.values()].map(norm));
    for (const [name, gradient] of named(result)) {
      const figures = result.errors[name as keyof typeof result.errors];
      if (!figures) continue;
      const error = distance(gradient, truth.get(name)!);
      const limit = figures.estimate.upper * norm(gradient);
      checked++;
      if (error <= limit + remainder) covered++;
      else
        t.diagnostic(`${name}: ${error}, limit ${limit}: ${JSON.stringify({ ...options, kind })}`);
      if (!figures.certificate) continue;
      certified++;
      assert.ok(error <= figures.certificate.frobenius, `${name}: ${JSON.stringify(options)}`);
    }
  }
  t.diagnostic(`covered ${covered} of ${checked}, ${certified} certificates, ${lost} out of reach`);
  assert.ok(covered >= 0.98 * checked, `${covered} of ${checked}`);
  assert.ok(certified > 0);
});
