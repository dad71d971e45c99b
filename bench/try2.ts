import { distance, makeProblem, norm, type Recipe } from '../test/kernels/low-rank-support.js';
import { exactJob, runExactTask } from '../workers/kernels/exact/gradient.js';
import { runJob } from '../workers/kernels/job.js';
import {
  draftPlan,
  openScan,
  putAside,
  sampleBasis,
  scanRows,
} from '../workers/kernels/low-rank/basis.js';
import { chainJob } from '../workers/kernels/low-rank/chain.js';
import { CompiledArithmetic } from '../workers/kernels/low-rank/compiled.js';
import { splitHeads } from '../workers/kernels/low-rank/head.js';
import { openRun } from '../workers/kernels/low-rank/run.js';
import { runLowRankTask } from '../workers/kernels/low-rank/task.js';
import { loadWasm } from '../workers/kernels/wasm/load.js';

const wasm = loadWasm();
const arithmetic = new CompiledArithmetic(wasm);
function go(recipe: Recipe, list: [number, number][]) {
  const problem = makeProblem(recipe);
  let t = performance.now();
  const ex = runJob(exactJob(problem, { attentionOutput: false }), (task, c) => {
    wasm.reset();
    return runExactTask(task, wasm, c);
  });
  const te = performance.now() - t;
  wasm.reset();
  const heads = splitHeads(problem);
  for (const [m, n] of list)
    for (let rep = 0; rep < 2; rep++) {
      t = performance.now();
      const share = n / recipe.queryLength;
      const plans = heads.map((head) => {
        const [basis] = sampleBasis(arithmetic, head, [share], 1);
        const draft = draftPlan(head, basis, m, 0);
        const scan = openScan(head);
        scanRows(
          arithmetic,
          head,
          draft,
          { from: 0, to: Math.max(head.queryLength, head.keyLength) },
          scan,
        );
        return putAside(draft, scan, n, n);
      });
      const tp = performance.now() - t;
      const times: Record<string, number> = {};
      t = performance.now();
      const { gradients } = runJob(
        chainJob(problem, heads.length, (i) =>
          openRun(heads[i], plans[i], new Int32Array(0), true),
        ),
        (task, cancelled) => {
          const t0 = performance.now();
          const r = runLowRankTask(task, arithmetic, cancelled);
          times[task.step] = (times[task.step] ?? 0) + performance.now() - t0;
          return r;
        },
      );
      const tl = performance.now() - t;
      const rel: string[] = [];
      for (const [name, g] of Object.entries(gradients)) {
        if (g.length === 0) continue;
        const [a, b] = name.split('.');
        const e = (ex.gradients as any)[a][b];
        rel.push((distance(g, e) / norm(e)).toExponential(1));
      }
      if (rep)
        console.log(
          recipe.queryLength,
          recipe.tail ?? '',
          'm',
          m,
          'n',
          n,
          'exact',
          te.toFixed(0),
          'prep',
          tp.toFixed(0),
          'chain',
          tl.toFixed(0),
          'x',
          (te / tl).toFixed(1),
          JSON.stringify(times, (k, v) => (typeof v === 'number' ? Math.round(v) : v)),
          rel.join(' '),
        );
    }
}
const b = {
  seed: 1,
  d: 64,
  rank: 8,
  deviation: 0.2,
  single: true,
  adapted: process.argv[2] ?? 'qv',
} as const;
go({ ...b, queryLength: 16384 }, [
  [32, 0],
  [64, 0],
  [128, 0],
  [64, 128],
]);
