/** The plan of a head from its draft: rows put aside, and features drawn for the estimate. */
import type { Task } from '../../../job.js';
import { shared } from '../../../tensor/shared-memory.js';
import { Random } from '../../random.js';
import { sharedFloat32 } from '../../result.js';
import { drawFeatures } from '../error/drawn-features/draw.js';
import { largest } from '../features/select.js';
import { BLOCK } from '../head/block.js';
import type { Head } from '../head/head.js';
import type { HeadPlan } from '../head/plan.js';
import type { RowScan } from './scan.js';
import type { Trial } from './trial/trial.js';

export interface AsideTask extends Task<HeadPlan> {
  readonly kernel: 'low_rank';
  readonly step: 'aside';
  readonly head: Head;
  readonly draft: HeadPlan;
  readonly scan: RowScan;
  readonly outlierQueries: number;
  readonly outlierKeys: number;
  /** What features are drawn from, and how many. */
  readonly trial: Pick<Trial, 'basis' | 'weightsBeyond'>;
  readonly sampledFeatures: number;
  readonly seed: number;
}

export function finishPlan(task: AsideTask): HeadPlan {
  const { trial, sampledFeatures, seed } = task;
  const { basis, weightsBeyond } = trial;
  const drawnFeatures =
    weightsBeyond.length > 0
      ? drawFeatures(basis.features, sampledFeatures, new Random(seed))
      : null;
  return shared({ ...putAside(task), drawnFeatures });
}

/** Beside a row that is far worse: 0 would say that the row is exact. */
const LEAST_RESIDUAL = 1e-30;

/** The plan with its outliers, the rows of which the features leave out most, and the largest remaining weight at 1. */
function putAside({ head, draft, scan, outlierQueries, outlierKeys }: AsideTask): HeadPlan {
  const keys = largest(scan.key, outlierKeys);
  const aside = new Set(keys);
  let shift = -Infinity;
  for (let j = 0; j < scan.logWeight.length; j++) {
    const w = scan.logWeight[j];
    if (w > shift && !aside.has(j)) shift = w;
  }
  const queries = largest(scan.query, outlierQueries);
  for (const i of queries) scan.query[i] = -Infinity;
  let worst = -Infinity;
  for (let i = 0; i < scan.query.length; i++) worst = Math.max(worst, scan.query[i]);
  const residual = sharedFloat32(scan.query.length);
  // Under a causal mask the first rows see nothing but their diagonal block.
  const exact = head.causal ? BLOCK : 0;
  for (let i = exact; i < residual.length; i++) {
    const x = scan.query[i];
    if (x !== -Infinity) residual[i] = Math.max(LEAST_RESIDUAL, Math.exp(x - worst));
  }
  return {
    ...draft,
    residual,
    outlierQueries: queries,
    outlierKeys: keys,
    logWeightShift: shift === -Infinity ? 0 : shift,
  };
}
