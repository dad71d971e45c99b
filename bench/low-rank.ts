/**
 * The low-rank kernel against the exact one, on one thread: time by step, true error and error bars.
 * node dist/bench/low-rank.js [features = 64]
 */

import { distance, makeProblem, norm, type Recipe } from '../test/kernels/low-rank-support.js';
import { exactJob, runExactTask } from '../workers/kernels/exact/gradient.js';
import { runJob } from '../workers/kernels/job.js';
import { lowRankJob } from '../workers/kernels/low-rank/job.js';
import { planLowRank } from '../workers/kernels/low-rank/plan.js';
import { type LowRankTask, runCompiledLowRankTask } from '../workers/kernels/low-rank/task.js';
import { loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm();
const features = Number(process.argv[2] ?? 64);
/** Longest problem that the exact kernel is given: beyond, its time is scaled by L^2. */
const LONGEST_EXACT = 16384;

function measure(recipe: Recipe): void {
  const problem = makeProblem(recipe);
  const length = Math.min(recipe.queryLength, LONGEST_EXACT);
  const small =
    length < recipe.queryLength ? makeProblem({ ...recipe, queryLength: length }) : problem;
  const start = performance.now();
  const exact = runJob(exactJob(small, { attentionOutput: false }), (task, cancelled) =>
    runExactTask(task, wasm, cancelled),
  );
  const exactTime = (performance.now() - start) * (recipe.queryLength / length) ** 2;
  for (const warm of [false, true]) {
    const steps = new Map<string, number>();
    const run = (task: LowRankTask) => {
      const since = performance.now();
      const result = runCompiledLowRankTask(task, wasm, () => false);
      steps.set(task.step, (steps.get(task.step) ?? 0) + performance.now() - since);
      return result;
    };
    const options = { seed: 1, tolerance: 0.01, rates: { exact: 30e9, lowRank: 30e9 }, features };
    const plan = runJob(planLowRank(problem, options), run);
    const settings = { seed: 1, correction: false, certificate: false, attentionOutput: false };
    const result = runJob(lowRankJob(problem, plan, { ...settings, single: true }), run);
    if (!warm) continue;
    const total = [...steps.values()].reduce((a, b) => a + b, 0);
    const chain = ['keys', 'queries', 'left', 'gradients'].reduce(
      (t, s) => t + (steps.get(s) ?? 0),
      0,
    );
    console.log(
      `L ${recipe.queryLength} ${recipe.tail ?? 'normal'}: m ${plan.features}, outliers ${plan.outlierQueries},`,
      `exact ${exactTime.toFixed(0)} ms, chain ${chain.toFixed(0)} ms (${(exactTime / chain).toFixed(1)}x),`,
      `with plan and estimate ${total.toFixed(0)} ms (${(exactTime / total).toFixed(1)}x)`,
    );
    console.log('  ', [...steps].map(([name, ms]) => `${name} ${ms.toFixed(0)}`).join(', '));
    for (const projection of ['q_proj', 'k_proj', 'v_proj'] as const) {
      for (const part of ['lora_A', 'lora_B'] as const) {
        const gradient = result.gradients[projection]?.[part];
        const reference = exact.gradients[projection]?.[part];
        if (!gradient || !reference) continue;
        const upper = result.errors[`${projection}.${part}`]?.estimate.upper.toExponential(1);
        const error = small === problem ? distance(gradient, reference) / norm(reference) : null;
        console.log(`   ${projection}.${part}: error ${error?.toExponential(1)}, upper ${upper}`);
      }
    }
  }
}

const base = { seed: 1, d: 64, rank: 8, deviation: 0.2, single: true, adapted: 'qv' } as const;
measure({ ...base, queryLength: 16384 });
measure({ ...base, queryLength: 16384, tail: 't4' });
measure({ ...base, queryLength: 65536 });
