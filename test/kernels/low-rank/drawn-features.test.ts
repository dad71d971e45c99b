/** Features drawn at random from those that the chain leaves out, and what they say about the error. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Job, runJob, stage } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { Arithmetic } from '../../../workers/kernels/low-rank/arithmetic/arithmetic.js';
import { type HeadRun, openRun } from '../../../workers/kernels/low-rank/chain/run.js';
import { chainJob } from '../../../workers/kernels/low-rank/chain-job.js';
import { drawFeatures } from '../../../workers/kernels/low-rank/error/drawn-features/draw.js';
import { openDrawnGradients } from '../../../workers/kernels/low-rank/error/estimate.js';
import type { Draw } from '../../../workers/kernels/low-rank/error/sampled-rows/draw-rows.js';
import {
  openKeyErrors,
  openSampledRun,
  type SampledRun,
} from '../../../workers/kernels/low-rank/error/sampled-rows/sampled-run.js';
import { mehlerRho, selectFeatures } from '../../../workers/kernels/low-rank/features/features.js';
import { BLOCK } from '../../../workers/kernels/low-rank/head/block.js';
import { DRAWN_GROUPS, type DrawnFeatures } from '../../../workers/kernels/low-rank/head/plan.js';
import { weightedFeatures } from '../../../workers/kernels/low-rank/head/rows/weighted-features.js';
import { emptyGradients, TENSORS } from '../../../workers/kernels/low-rank/head/tensors.js';
import { openWorkspace } from '../../../workers/kernels/low-rank/head/workspace.js';
import { type LowRankPlan, planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type RunTask, sampleStages } from '../../../workers/kernels/low-rank/sums.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import type { EstimateTask } from '../../../workers/kernels/low-rank/tensor-error.js';
import { Random } from '../../../workers/kernels/random.js';
import { Lease } from '../../../workers/tensor/shared-memory.js';
import { testSeed } from '../../support/random.js';
import { distance, norm } from '../run.js';
import { exactGradients, makeProblem, type Recipe } from './support.js';

const wasm = loadWasm();
const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);
const seed = testSeed(1);

/** exp(sum_a sigma_a x_a z_a) over c g(x) g(z): what all features make of it. */
function kernel(sigma: Float64Array, x: readonly number[], z: readonly number[]): number {
  let log = 0;
  sigma.forEach((s, a) => {
    const rho = mehlerRho(s);
    const g = (rho * rho) / (2 * (1 - rho * rho));
    log += s * x[a]! * z[a]! - g * (x[a]! ** 2 + z[a]! ** 2) - 0.5 * Math.log1p(-rho * rho);
  });
  return Math.exp(log);
}

test('mixtures estimate without bias what the chain leaves out of the kernel', (t) => {
  const random = new Random(seed);
  const arithmetic = new Arithmetic(wasm, () => {});
  const cases = [
    { sigma: [0.6, 0.5, 0.3, 0.1], m: 20 },
    { sigma: [0.2, 0.2, 0.2], m: 4 },
    // Of a mixture of all features nearly nothing is left.
    { sigma: [0.02, 0.01], m: 3 },
  ];
  const count = 4000 - (4000 % DRAWN_GROUPS);
  for (const { sigma: sizes, m } of cases) {
    const d = sizes.length;
    const sigma = Float64Array.from(sizes);
    const { head, headPlan } = planOf({ d, queryLength: 700 });
    const features = selectFeatures(sigma, m);
    const drawnFeatures = drawFeatures(features, count, random)!;
    const space = openWorkspace(arithmetic, head, { ...headPlan, m, features, drawnFeatures });
    const rows = arithmetic.array(BLOCK * d);
    for (let i = 0; i < 2 * d; i++) rows[i] = 3 * random.uniform() - 1.5;
    const weights = [0.5, 2];
    const phi = arithmetic.array((m + count) * BLOCK);
    weightedFeatures(space)(rows, 2, (r) => weights[r]!, phi);
    const product = (f: number) => phi[f * BLOCK]! * phi[f * BLOCK + 1]!;
    const [x, z] = [0, 1].map((r) => Array.from(rows.subarray(r * d, (r + 1) * d)));
    let left = kernel(sigma, x!, z!);
    for (let f = 0; f < m; f++) left -= product(f);
    // Those of a group are to be added.
    const scale = count / DRAWN_GROUPS;
    const products = Array.from({ length: count }, (_, k) => scale * product(m + k));
    const mean = products.reduce((sum, y) => sum + y, 0) / count;
    const variance = products.reduce((sum, y) => sum + (y - mean) ** 2, 0) / (count - 1);
    const room = 4.5 * Math.sqrt(variance / count) + 1e-9;
    t.diagnostic(`${sizes}: ${mean} for ${left}, room ${room}`);
    assert.ok(Math.abs(mean - left) < room, `${mean} for ${left}, room ${room}`);
    for (let r = 2; r < BLOCK; r++) assert.equal(phi[(m + 1) * BLOCK + r], 0);
  }
});

/** Head and plan of a problem without structure, with six features. */
function planOf(recipe: Partial<Recipe>) {
  const problem = makeProblem({ ...base, ...recipe });
  const rates = { exact: 30e9, lowRank: 30e9 };
  const plan = runJob(planLowRank(problem, { tolerance: 0.05, seed: 1, rates, features: 6 }), run);
  return { problem, plan, head: plan.heads[0]!, headPlan: plan.headPlans[0]! };
}

/**
 * Mixtures that add up to what the chain leaves out: signs of which the products of up to six are orthogonal, as those
 * of two features are of three directions. They are the dual of the code of R. C. Bose and D. K. Ray-Chaudhuri (1960) of
 * length 15 and distance 7: a sign for each of five degrees of three directions.
 */
function allFeatures(): DrawnFeatures {
  const powers = [1];
  while (powers.length < 15) {
    const next = 2 * powers[powers.length - 1]!;
    powers.push(next > 15 ? next ^ 0b10011 : next);
  }
  const checks = powers.map(
    (power, i) => power | (powers[(3 * i) % 15]! << 4) | (((i % 3) + 1) << 8),
  );
  const odd = (bits: number) => bits.toString(2).replaceAll('0', '').length % 2 === 1;
  const count = 2 ** 10;
  const signs = Float32Array.from({ length: count * 15 }, (_, i) =>
    odd(Math.floor(i / 15) & checks[i % 15]!) ? -1 : 1,
  );
  return { count, ends: Int32Array.of(5, 10, 15), signs };
}

/** The gradients, and the same corrected by all rows and all drawn features. */
function* everything(
  problem: ReturnType<typeof makeProblem>,
  plan: LowRankPlan,
): Job<{ gradients: Float64Array[]; corrected: Float64Array[] }, LowRankTask> {
  const { batch, queryLength } = problem.dims;
  const all = Int32Array.from({ length: queryLength }, (_, i) => i);
  const memory = new Lease();
  const sampled: SampledRun[] = [];
  const drawnFeatures = openDrawnGradients(
    Object.values(emptyGradients(problem)).map(({ length }) => length),
  );
  const { gradients } = yield* chainJob(
    problem,
    plan.heads.length,
    (h) => openRun(plan.heads[h], plan.headPlans[h], all, null, memory),
    { certified: false, drawnFeatures },
    function* (runs: readonly HeadRun[]): Job<void, RunTask> {
      const opened = runs.map((run) => openSampledRun(run, openKeyErrors(run.head, 0), memory));
      yield* sampleStages(opened, { draws: [], complete: false, lists: [] });
      sampled.push(...opened);
    },
  );
  const draws: Draw[] = Array.from({ length: batch * queryLength }, (_, i) => ({
    batch: Math.floor(i / queryLength),
    position: i % queryLength,
    probability: 1 / (batch * queryLength),
  }));
  const corrected = TENSORS.map((name) => gradients[name].slice());
  yield* stage(
    'estimate',
    corrected.map(
      (gradient, tensor): EstimateTask => ({
        ...{
          kernel: 'low_rank',
          step: 'estimate',
          sampled,
          drawnFeatures: drawnFeatures[tensor],
          tensor,
        },
        ...{ draws: { draws, complete: false, lists: [] }, gradient, correction: true },
      }),
    ),
  );
  return { gradients: TENSORS.map((name) => gradients[name]), corrected };
}

const base: Recipe = { seed: 3, queryLength: 70, d: 3, rank: 2, deviation: 0.1, mean: 0.4 };
const cases: Readonly<Record<string, Partial<Recipe>>> = {
  'all adapted': {},
  'a target': { kind: 'target' },
  'cross-attention, other value width': { keyLength: 50, dv: 4, inputs: 5 },
  'a batch, grouped heads': { batch: 2, heads: 4, keyValueHeads: 2, inputs: 6, kind: 'target' },
  'heavy tails, outliers put aside': { tail: 't4', queryLength: 200, keyLength: 180 },
  'only k': { adapted: 'k' },
  'only v, a target': { adapted: 'v', kind: 'target' },
};

for (const [name, recipe] of Object.entries(cases)) {
  test(`all drawn features and all rows make up the error: ${name}`, () => {
    const { problem, plan } = planOf(recipe);
    const headPlans = plan.headPlans.map((head) => ({ ...head, drawnFeatures: allFeatures() }));
    const { gradients, corrected } = runJob(everything(problem, { ...plan, headPlans }), run);
    const truth = exactGradients(problem);
    let checked = 0;
    TENSORS.forEach((tensor, t) => {
      const exact = truth[tensor];
      if (gradients[t].length === 0 || !exact) return;
      const error = distance(gradients[t], exact);
      // A thousandth of the error is far below what any missing term would leave.
      assert.ok(error > 1e-6 * norm(exact), `${tensor}: nothing to be found`);
      const left = distance(corrected[t], exact);
      const rounding = 2 ** -20 * norm(exact);
      assert.ok(left < 1e-3 * error + rounding, `${tensor}: error ${error}, left ${left}`);
      checked++;
    });
    assert.ok(checked > 0);
  });
}
