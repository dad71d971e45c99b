/** The low-rank kernel on a problem that is cut into problems: the gradient of the whole, and limits that hold. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import {
  lowRankForwardJob,
  lowRankForwardParts,
} from '../../../workers/kernels/low-rank/forward-job.js';
import { lowRankJob, lowRankParts } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import type { Cut } from '../../../workers/kernels/parts/cut.js';
import type { AttentionKind, AttentionProblem } from '../../../workers/problem.js';
import { runTask } from '../../../workers/tasks/run.js';
import { testSeed } from '../../support/random.js';
import { everyCut } from '../cuts.js';
import { type ProblemOptions, randomProblem, randomStates } from '../problems.js';
import { distance, named, norm, reference } from '../run.js';
import { makeProblem } from './support.js';

const wasm = loadWasm();
const seed = testSeed();
const rates = { exact: 30e9, lowRank: 30e9 };
const run = (task: Parameters<typeof runTask>[0], stop: () => boolean) => runTask(task, wasm, stop);

function planFor(problem: AttentionProblem, inputGradients?: AttentionKind, features = 48) {
  const options = { tolerance: 0.02, seed, rates, features };
  return runJob(
    planLowRank(problem, { ...options, inputGradients: inputGradients !== undefined }),
    run,
  );
}

/** Rows stay together. */
const cutsOf = (problem: AttentionProblem, inputGradients?: AttentionKind): Cut[][] =>
  everyCut(problem, inputGradients !== undefined).slice(0, 2);

const SMALL = { batch: 2, heads: 4, keyValueHeads: 2, queryLength: 330, headDim: 8, spread: 0.3 };
const SHAPES: Record<string, Omit<ProblemOptions, 'seed'> & { inputs?: AttentionKind }> = {
  plain: { ...SMALL, bias: true },
  'compared whole, with a target': { ...SMALL, queryLength: 100, objective: 'target' },
  'causal, padding': { ...SMALL, keyLengths: [330, 207], causal: true, objective: 'target' },
  'rotary positions': { ...SMALL, rotary: true, causal: true },
  'input gradients': { ...SMALL, inputs: 'self' },
};

for (const [name, { inputs, ...shape }] of Object.entries(SHAPES)) {
  test(`${name}: parts have the gradient, the certificate and the output of the whole`, () => {
    const problem = randomProblem({ ...shape, seed });
    // Limits of few drawn rows scatter, and those of mixtures are up to four times as wide in parts: their directions are not known there.
    const sampledRows = Math.min(384, SMALL.batch * problem.dims.queryLength);
    const plan = { ...planFor(problem, inputs), sampledRows, sampledFeatures: 0 };
    const options = {
      ...{ seed, correction: false, certificate: true, attentionOutput: true },
      inputGradients: inputs,
    };
    const whole = runJob(lowRankJob(problem, plan, options), run);
    const output = runJob(lowRankForwardJob(problem, plan, { seed }), run);
    const overWhole: number[] = [];
    for (const cuts of cutsOf(problem, inputs)) {
      const result = runJob(lowRankParts(problem, plan, options, cuts), run);
      const close = (x: ArrayLike<number>, y: ArrayLike<number>, what: string) => {
        const off = distance(Float64Array.from(x), Float64Array.from(y));
        assert.ok(off <= 1e-5 * norm(Float64Array.from(y)), `${what}: ${off}`);
      };
      assert.deepEqual([...named(result).keys()], [...named(whole).keys()]);
      for (const [tensor, x] of named(result)) close(x, named(whole).get(tensor)!, tensor);
      close(result.attentionOutput!, whole.attentionOutput!, 'output');
      if (whole.loss !== null) close([result.loss!], [whole.loss], 'loss');
      else assert.equal(result.loss, null);
      assert.deepEqual(result.headNorms, whole.headNorms);
      assert.equal(result.lostRows, 0);
      for (const [tensor, { estimate, certificate }] of Object.entries(whole.errors)) {
        const mine = result.errors[tensor as keyof typeof result.errors]!;
        if (certificate) close([mine.certificate!.frobenius], [certificate.frobenius], tensor);
        else assert.equal(mine.certificate, null);
        overWhole.push(mine.estimate.upper / estimate.upper);
      }
      const parts = runJob(lowRankForwardParts(problem, plan, seed, cuts), run);
      close(parts.attentionOutput, output.attentionOutput, 'output alone');
      assert.equal(parts.error.rows_sampled, output.error.rows_sampled);
    }
    // Parts draw other rows than the whole: one limit may be three times the other, all together are alike.
    const logs = overWhole.reduce((sum, over) => sum + Math.log(over), 0);
    const typical = Math.exp(logs / overWhole.length);
    assert.ok(typical > 0.25 && typical < 4, `limits are ${typical} times those of the whole`);
  });
}

test('the output of attention states in parts is that of the whole', () => {
  const problem = randomStates({ ...SMALL, seed });
  const options = { tolerance: 0.02, seed, rates, features: 48, outputOnly: true };
  const plan = runJob(planLowRank(problem, options), run);
  const { attentionOutput } = runJob(lowRankForwardJob(problem, plan, { seed }), run);
  for (const cuts of cutsOf(problem)) {
    const parts = runJob(lowRankForwardParts(problem, plan, seed, cuts), run);
    assert.ok(distance(parts.attentionOutput, attentionOutput) <= 1e-5 * norm(attentionOutput));
  }
});

test('a corrected gradient in parts has the error that its figures say', () => {
  const problem = randomProblem({ ...SMALL, seed });
  const plan = planFor(problem, undefined, 16);
  const options = { seed, correction: true, certificate: false, attentionOutput: false };
  const truth = named(reference(problem));
  for (const cuts of cutsOf(problem)) {
    const result = runJob(lowRankParts(problem, plan, options, cuts), run);
    for (const [tensor, x] of named(result)) {
      const { estimate } = result.errors[tensor as keyof typeof result.errors]!;
      assert.equal(estimate.relative, estimate.standard_error);
      const off = distance(x, truth.get(tensor)!) / norm(x);
      assert.ok(off <= estimate.upper && off > 0.01 * estimate.standard_error, tensor);
    }
  }
});

test('the upper limits of problems in parts hold for at least 96 of 100 tensors', (t) => {
  let [held, total] = [0, 0];
  const tails = ['normal', 't4', 'few huge rows', 'one huge key'] as const;
  for (let k = 0; k < 10; k++) {
    const problem = makeProblem({
      ...{ seed: 1000 * seed + k, batch: 1 + (k % 3), heads: 2, queryLength: 540 },
      ...{ keyLength: 200, d: [4, 8, 16][k % 3]!, deviation: [0.1, 0.3, 1][k % 3]! },
      ...{ tail: tails[k % 4]!, kind: k % 2 ? 'target' : 'grad_output', related: k % 5 === 0 },
    });
    const truth = named(reference(problem));
    const plan = planFor(problem, undefined, [16, 64][k % 2]);
    const options = { seed, correction: false, certificate: false, attentionOutput: false };
    // One item alone is no part, and its heads draw what the whole draws.
    for (const cuts of cutsOf(problem).filter(({ length }) => length > 1)) {
      const result = runJob(lowRankParts(problem, plan, options, cuts), run);
      if (result.lostRows > 0) continue;
      for (const [tensor, x] of named(result)) {
        const { upper } = result.errors[tensor as keyof typeof result.errors]!.estimate;
        total++;
        if (distance(x, truth.get(tensor)!) <= upper * norm(x)) held++;
      }
    }
  }
  t.diagnostic(`${held} of ${total} hold`);
  assert.ok(total > 80);
  // Cuts of one problem fail together.
  assert.ok(held >= 0.96 * total, `${held} of ${total}`);
});
