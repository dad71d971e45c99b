import {
  distance,
  exactGradients,
  makeProblem,
  norm,
  type Recipe,
} from '../test/kernels/low-rank-support.js';
import { runJob } from '../workers/kernels/job.js';
import { CompiledArithmetic } from '../workers/kernels/low-rank/compiled.js';
import { lowRankJob } from '../workers/kernels/low-rank/job.js';
import { plain } from '../workers/kernels/low-rank/plain.js';
import { planLowRank } from '../workers/kernels/low-rank/plan.js';
import { type LowRankTask, runLowRankTask } from '../workers/kernels/low-rank/task.js';
import { loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm();
const arithmetic = process.argv[2] === 'plain' ? plain : new CompiledArithmetic(wasm);
const rates = { exact: 30e9, lowRank: 30e9 };
function go(recipe: Recipe, tolerance: number, features?: number) {
  const problem = makeProblem(recipe);
  const exact = exactGradients(problem);
  const times: Record<string, number> = {};
  const run = (task: LowRankTask) => {
    const t = performance.now();
    const result = runLowRankTask(task, arithmetic, () => false);
    times[task.step] = Math.round((times[task.step] ?? 0) + performance.now() - t);
    return result;
  };
  const plan = runJob(
    planLowRank(problem, {
      tolerance,
      seed: recipe.seed,
      rates,
      sampledRows,
      ...(features ? { features } : {}),
    }),
    run,
  );
  const result = runJob(
    lowRankJob(problem, plan, {
      seed: recipe.seed,
      sampledRows,
      correction: false,
      certificate: true,
      single: arithmetic !== plain,
    }),
    run,
  );
  const rows = Object.entries(result.errors).map(([name, error]) => {
    const g = exact[name as keyof typeof exact];
    const truth = distance(g, result.gradients[name as keyof typeof exact]) / norm(g);
    return `${name.replace('_proj.lora_', '')} c ${error.certificate?.relative.toExponential(1)} x${((error.certificate?.relative ?? 0) / truth).toFixed(0)} ${truth.toExponential(1)} est ${error.estimate.relative.toExponential(1)} up ${error.estimate.upper.toExponential(1)} x${(error.estimate.upper / truth).toFixed(1)}`;
  });
  console.log(
    JSON.stringify(recipe),
    'plan',
    plan.features,
    plan.maxDegree,
    plan.outlierQueries,
    plan.outlierKeys,
    plan.predictedError.toExponential(1),
    plan.meetsTolerance,
    plan.breakEvenLength,
    JSON.stringify(plan.seconds),
    JSON.stringify(times),
    '\n  ',
    rows.join(' | '),
  );
}
const b = {
  seed: 1,
  queryLength: 1024,
  d: 16,
  deviation: 0.2,
  single: arithmetic !== plain,
} as const;
go(b, 0.03);
go(b, 0.01);
go({ ...b, tail: 't4' }, 0.03);
go({ ...b, kind: 'target', tail: 't4', causal: true }, 0.03);
go(
  { ...b, kind: 'target', tail: 'one huge key', heads: 4, keyValueHeads: 2, batch: 2, inputs: 24 },
  0.03,
);
go({ ...b, deviation: 2 }, 0.03);
go({ ...b, queryLength: 3000, d: 64, rank: 8 }, 0.03);
