/** Drawn keys in a problem that is cut into problems: the draws of the whole, and limits that hold. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { sampledJob, sampledParts } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { type AttentionProblem, hasAttentionStates } from '../../../workers/problem.js';
import { runTask } from '../../../workers/tasks/run.js';
import { testSeed } from '../../support/random.js';
import { everyCut } from '../cuts.js';
import {
  type ProblemOptions,
  randomProblem,
  randomStates,
  statesWithSums,
  tensor,
} from '../problems.js';
import { distance, exact, named, norm } from '../run.js';

const wasm = loadWasm();
const seed = testSeed(5);
const run = (task: Parameters<typeof runTask>[0], stop: () => boolean) => runTask(task, wasm, stop);

/** Rows of a causal problem see fewer: were more asked for, a list would often be half of them, and all be taken. */
const KEYS = { causal: 50, others: 90 };
const LONG = { batch: 2, heads: 2, queryLength: 700, headDim: 16, inFeatures: 24, spread: 3 };
const SHAPES: Record<string, Omit<ProblemOptions, 'seed'>> = {
  causal: { ...LONG, causal: true, bias: true },
  'rotary positions, grouped heads': { ...LONG, heads: 4, keyValueHeads: 2, rotary: true },
  'no mask, padding': { ...LONG, keyLengths: [700, 590] },
};

function states(): AttentionProblem {
  const problem = randomStates({ ...LONG, causal: true, seed });
  const of = (k: number) =>
    tensor([LONG.batch, LONG.queryLength, 20], 'float32', (i) => Math.sin(i * (k + 0.37)));
  return { ...problem, projectedFrom: { query: of(1), key: of(2) } };
}

const problems: Record<string, () => AttentionProblem> = {
  ...Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape]) => [name, () => randomProblem({ ...shape, seed })]),
  ),
  'attention states': states,
  'attention states, sinks, padding': () =>
    statesWithSums({ ...LONG, keyLengths: [700, 590], sinks: true, seed }),
};

for (const [name, make] of Object.entries(problems)) {
  test(`${name}: parts draw what the whole draws, and their error is what the figures say`, () => {
    const problem = make();
    const inputGradients = hasAttentionStates(problem) ? ('attention' as const) : undefined;
    const outputs = { attentionOutput: true, inputGradients };
    const needs = { gradients: true, output: false, inputGradients: inputGradients !== undefined };
    const keys = name === 'causal' ? KEYS.causal : KEYS.others;
    const planning = planSampled(problem, { ...outputs, keys, tolerance: 0.1, needs, seed });
    const { plan } = runJob(planning, run);
    const whole = runJob(sampledJob(problem, plan, { ...outputs, seed }), run);
    const truth = named(exact(problem, wasm, false, inputGradients));
    for (const cuts of everyCut(problem, inputGradients !== undefined)) {
      const result = runJob(sampledParts(problem, plan, { ...outputs, seed }, cuts), run);
      const got = named(result);
      assert.deepEqual([...got.keys()], [...named(whole).keys()]);
      assert.deepEqual(result.headNorms, whole.headNorms);
      let [largest, overstated] = [0, Number.POSITIVE_INFINITY];
      for (const [tensorName, x] of got) {
        const wholeX = named(whole).get(tensorName)!;
        // The keys that a part of the rows has decide about what is drawn of them.
        const sameKeys = cuts.every(({ rows }) => rows.last - rows.first === LONG.queryLength);
        const off = distance(x, wholeX) / norm(wholeX);
        assert.ok(!sameKeys || off < 1e-5, `${tensorName}: ${off} in ${cuts.length} parts`);
        if (!truth.has(tensorName)) continue;
        const error = distance(x, truth.get(tensorName)!) / norm(x);
        const { upper, standard_error } = result.errors[tensorName]!;
        // With projectedFrom figures are those of the gradients of weights.
        if (problem.projectedFrom) assert.ok(upper > standard_error && standard_error > 0);
        else assert.ok(error <= upper, `${tensorName}: ${error} above ${upper}`);
        overstated = Math.min(overstated, standard_error / error);
        largest = Math.max(largest, standard_error);
      }
      assert.ok(largest > 1e-3, 'nothing was drawn');
      // Of a few numbers an error may be small by chance: that of one tensor is not.
      if (!problem.projectedFrom)
        assert.ok(overstated < 10, 'every error is a tenth of what is said');
    }
  });
}
