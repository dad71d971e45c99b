import {
  distance,
  exactGradients,
  makeProblem,
  norm,
  type Recipe,
} from '../test/kernels/low-rank-support.js';
import { runJob } from '../workers/kernels/job.js';
import {
  draftPlan,
  openScan,
  putAside,
  sampleBasis,
  scanRows,
} from '../workers/kernels/low-rank/basis.js';
import { chainJob } from '../workers/kernels/low-rank/chain.js';
import { splitHeads } from '../workers/kernels/low-rank/head.js';
import { plain } from '../workers/kernels/low-rank/plain.js';
import { openRun } from '../workers/kernels/low-rank/run.js';
import { runLowRankTask } from '../workers/kernels/low-rank/task.js';

function go(recipe: Recipe, m: number, share: number) {
  const problem = makeProblem(recipe);
  const exact = exactGradients(problem);
  const heads = splitHeads(problem);
  const plans = heads.map((head) => {
    const [basis] = sampleBasis(plain, head, [share], 1);
    const draft = draftPlan(head, basis, m, 0);
    const scan = openScan(head);
    scanRows(plain, head, draft, { from: 0, to: Math.max(head.queryLength, head.keyLength) }, scan);
    return putAside(
      draft,
      scan,
      Math.round(share * head.queryLength),
      Math.round(share * head.keyLength),
    );
  });
  const { gradients } = runJob(
    chainJob(problem, heads.length, (i) => openRun(heads[i], plans[i], new Int32Array(0), false)),
    (task, cancelled) => runLowRankTask(task, plain, cancelled),
  );
  const rel = Object.entries(exact).map(([n, g]) =>
    g.length === 0
      ? '-'
      : (distance(g, gradients[n as keyof typeof gradients]) / norm(g)).toExponential(1),
  );
  console.log(JSON.stringify(recipe), m, share, plans[0].m, rel.join(' '));
}
const b = { seed: 1, queryLength: 600, d: 16, deviation: 0.2 } as const;
go(b, 32, 0);
go(b, 128, 0);
go(b, 512, 0);
go({ ...b, keyLength: 500, dv: 12, kind: 'target' }, 256, 0.02);
go(
  { ...b, keyLength: 700, batch: 2, heads: 4, keyValueHeads: 2, inputs: 24, kind: 'target' },
  128,
  0.02,
);
go({ ...b, causal: true }, 128, 0.0);
go({ ...b, causal: true, kind: 'target' }, 128, 0.02);
go({ ...b, queryLength: 3000, causal: true, kind: 'target' }, 128, 0.02);
go({ ...b, causal: true, kind: 'target', keyLength: 450 }, 128, 0.02);
go({ ...b, causal: true, kind: 'target', keyLength: 850 }, 128, 0.02);
go({ ...b, tail: 't4' }, 256, 0);
go({ ...b, tail: 't4' }, 256, 0.05);
go({ ...b, tail: 'one huge key' }, 256, 0.01);
go({ ...b, tail: 'few huge rows' }, 256, 0.01);
go({ ...b, adapted: 'q', tail: 'few huge rows' }, 256, 0.01);
go({ ...b, adapted: 'v', tail: 'few huge rows' }, 256, 0.01);
go({ ...b, adapted: 'qv', deviation: 2, tail: 'few huge rows' }, 256, 0.01);
