/** Parts of every method on 1 and 3 workers: the answer of a node by itself, bit by bit. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Job } from '../../workers/job.js';
import { forwardParts } from '../../workers/kernels/exact/forward.js';
import { exactParts } from '../../workers/kernels/exact/gradient.js';
import { lowRankForwardParts } from '../../workers/kernels/low-rank/forward-job.js';
import { lowRankParts } from '../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../workers/kernels/low-rank/plan/plan.js';
import { referenceForwardParts, referenceParts } from '../../workers/kernels/reference/parts.js';
import { sampledParts } from '../../workers/kernels/sampled/job.js';
import { planSampled } from '../../workers/kernels/sampled/plan/stages.js';
import { everyCut } from '../kernels/cuts.js';
import { randomProblem } from '../kernels/problems.js';
import { testSeed } from '../support/random.js';
import { cluster } from './cluster.js';
import { large } from './nodes.js';
import { withoutStore } from './store.js';

const seed = testSeed();
const { signal } = new AbortController();
const size = { batch: 2, heads: 4, keyValueHeads: 2, queryLength: 400 };
const problem = randomProblem({ ...size, spread: 0.5, causal: true, seed });
const [, heads, rows] = everyCut(problem, false);

const skip = withoutStore;

const output = { attentionOutput: true };
const planned = <Result>(job: Job<Result>) => cluster.node.pool.run(job, { signal });

/** What is run, once there is a plan, and its parts. */
const METHODS: Record<string, { parts: number; plan(): Promise<() => Job<unknown>> }> = {
  exact: {
    parts: 12,
    plan: async () => () => exactParts(problem, { ...output, estimate: { rows: 16, seed } }, rows),
  },
  'exact, the output alone': {
    parts: 12,
    plan: async () => () => forwardParts(problem, seed, rows),
  },
  float64: { parts: 12, plan: async () => () => referenceParts(problem, output, rows) },
  'float64, the output alone': {
    parts: 12,
    plan: async () => () => referenceForwardParts(problem, rows),
  },
  low_rank: {
    parts: 4,
    async plan() {
      const options = { seed, tolerance: 0.1, rates: cluster.node.rates, features: 40 };
      const plan = await planned(planLowRank(problem, options));
      const run = { ...output, seed, correction: false, certificate: true };
      return () => lowRankParts(problem, plan, run, heads);
    },
  },
  'low_rank, the output alone': {
    parts: 4,
    async plan() {
      const options = {
        seed,
        tolerance: 0.1,
        rates: cluster.node.rates,
        features: 40,
        outputOnly: true,
      };
      const plan = await planned(planLowRank(problem, options));
      return () => lowRankForwardParts(problem, plan, seed, heads);
    },
  },
  sampled: {
    parts: 12,
    async plan() {
      const needs = { output: false, gradients: true, inputGradients: false };
      const options = { ...output, tolerance: 0.1, keys: 64, needs, seed };
      const { plan } = await planned(planSampled(problem, options));
      return () => sampledParts(problem, plan, { ...output, seed }, rows);
    },
  },
};

test('every method on 1 and 3 workers: the answer of a node by itself, bit by bit', {
  skip,
}, async () => {
  const subjects = await Promise.all(
    Object.entries(METHODS).map(async ([name, { parts, plan }]) => {
      const job = await plan();
      return { name, parts, job, expected: await planned(job()) };
    }),
  );
  const { node } = cluster;
  for (const count of [3, 1]) {
    await cluster.have(count);
    for (const { name, parts, job, expected } of subjects) {
      const { partsSent } = node.figures();
      const found = await node.run(large(job()), { signal });
      assert.deepEqual(found, expected, `${name} on ${count} workers`);
      assert.equal(node.figures().partsSent, partsSent + parts, name);
    }
  }
});
