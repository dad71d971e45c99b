import { distance, makeProblem, norm, type Recipe } from '../test/kernels/low-rank-support.js';
import { exactJob, runExactTask } from '../workers/kernels/exact/gradient.js';
import { runJob } from '../workers/kernels/job.js';
import { CompiledArithmetic } from '../workers/kernels/low-rank/compiled.js';
import { lowRankJob } from '../workers/kernels/low-rank/job.js';
import { planLowRank } from '../workers/kernels/low-rank/plan.js';
import { type LowRankTask, runLowRankTask } from '../workers/kernels/low-rank/task.js';
import { loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm();
const wasmExact = loadWasm();
const arithmetic = new CompiledArithmetic(wasm);
const rates = { exact: 30e9, lowRank: 30e9 };
function go(recipe: Recipe, tolerance: number, certificate: boolean, features?: number) {
  const problem = makeProblem(recipe);
  let te = 0;
  let ex: any = null;
  if (recipe.queryLength <= 16384) {
    const t = performance.now();
    ex = runJob(exactJob(problem, { attentionOutput: false }), (task, c) =>
      runExactTask(task, wasmExact, c),
    ).gradients;
    te = performance.now() - t;
  } else te = 2800 * (recipe.queryLength / 16384) ** 2;
  for (let rep = 0; rep < 2; rep++) {
    const times: Record<string, number> = {};
    const run = (task: LowRankTask) => {
      const t = performance.now();
      const result = runLowRankTask(task, arithmetic, () => false);
      times[task.step] = Math.round((times[task.step] ?? 0) + performance.now() - t);
      return result;
    };
    const t0 = performance.now();
    const plan = runJob(
      planLowRank(problem, {
        tolerance,
        seed: recipe.seed,
        rates,
        ...(features ? { features } : {}),
      }),
      run,
    );
    const t1 = performance.now();
    const result = runJob(
      lowRankJob(problem, plan, {
        seed: recipe.seed,
        correction: false,
        certificate,
        single: true,
      }),
      run,
    );
    const t2 = performance.now();
    if (rep === 0) continue;
    const rows = Object.entries(result.errors).map(([name, error]) => {
      const [a, b] = name.split('.');
      const truth = ex
        ? distance(ex[a][b], result.gradients[name as keyof typeof result.gradients]) /
          norm(ex[a][b])
        : NaN;
      return `${name.replace('_proj.lora_', '')} ${truth.toExponential(1)} up ${error.estimate.upper.toExponential(1)} c ${error.certificate?.relative.toExponential(1)}`;
    });
    console.log(
      recipe.queryLength,
      recipe.tail ?? '',
      recipe.causal ?? '',
      'm',
      plan.features,
      'n',
      plan.outlierQueries,
      's',
      plan.sampledRows,
      'pred',
      plan.predictedError.toExponential(1),
      plan.breakEvenLength,
      'exact',
      te.toFixed(0),
      'plan',
      (t1 - t0).toFixed(0),
      'run',
      (t2 - t1).toFixed(0),
      'x',
      (te / (t2 - t0)).toFixed(1),
      JSON.stringify(times),
      '\n   ',
      rows.join(' | '),
    );
  }
}
const b = { seed: 1, d: 64, rank: 8, deviation: 0.2, single: true, adapted: 'qv' } as const;
const only = process.argv[2];
if (!only || only === 'a') {
  go({ ...b, queryLength: 16384 }, 0.03, false);
  go({ ...b, queryLength: 16384 }, 0.01, false);
  go({ ...b, queryLength: 16384 }, 0.01, true);
  go({ ...b, queryLength: 16384, causal: true }, 0.01, true);
  go({ ...b, queryLength: 16384, tail: 't4' }, 0.01, false);
}
if (!only || only === 'b') {
  go({ ...b, queryLength: 65536 }, 0.01, false);
  go({ ...b, queryLength: 65536, tail: 't4' }, 0.01, false);
}
if (only === 'p') go({ ...b, queryLength: 32768 }, 0.01, false, 64);
