/** The tasks of the low-rank kernel, and what a worker thread does with one. */

import { type Cancelled, checkpoint, type ResultOf, withNumericFailure } from '../../job.js';
import { shared } from '../../tensor/shared-memory.js';
import type { Wasm } from '../inner/instance.js';
import { Arithmetic } from './arithmetic/arithmetic.js';
import { headGradients } from './chain/gradient.js';
import { addInputGradients } from './chain/inputs.js';
import { joinKeys, joinQueries, keyPass } from './chain/keys.js';
import { leftPass } from './chain/left.js';
import { queryPass } from './chain/queries/queries.js';
import type { HeadRun } from './chain/run.js';
import { bounds, collect } from './chain-job.js';
import { joinKeySides, KeyCertificate } from './error/certificate/certificate-keys.js';
import { QueryCertificate } from './error/certificate/certificate-queries.js';
import { drawnKeySums, drawnQuerySums } from './error/drawn-features/sums.js';
import { draw, rowWeights } from './error/sampled-rows/draw-rows.js';
import { sampledErrorPass, sampledExactPass } from './error/sampled-rows/sampled.js';
import { sampledKeyPass } from './error/sampled-rows/sampled-keys.js';
import { drawOutputs, type ForwardTask, outputErrors } from './forward-job.js';
import { composedNorms } from './head/composed-norms.js';
import { splitHead } from './head/split.js';
import { openWorkspace, type Workspace } from './head/workspace.js';
import { finishPlan } from './plan/aside.js';
import { draft } from './plan/draft.js';
import type { PlanTask } from './plan/plan.js';
import { scanRows } from './plan/scan.js';
import { longestRows } from './plan/trial/sample.js';
import { tryShares } from './plan/trial/trial.js';
import type { RunTask } from './sums.js';
import { estimate } from './tensor-error.js';

export type LowRankTask = PlanTask | RunTask | ForwardTask;
type Step = LowRankTask['step'];
type TaskOf<S extends Step> = Extract<LowRankTask, { readonly step: S }>;

/** What each step does with a task; what lies in scratch memory is gone when it is done. */
const STEPS: {
  readonly [S in Step]: (
    task: TaskOf<S>,
    arithmetic: Arithmetic,
    cancelled: Cancelled,
  ) => ResultOf<TaskOf<S>>;
} = {
  split: (task, arithmetic, cancelled) => splitHead(arithmetic, task, cancelled),
  longest: (task, arithmetic, cancelled) => longestRows(arithmetic, task, cancelled),
  trial: (task, arithmetic, cancelled) => tryShares(arithmetic, task, cancelled),
  norms: (task, arithmetic, cancelled) => composedNorms(arithmetic, task, cancelled),
  draft: (task) => draft(task),
  scan: (task, arithmetic, cancelled) => scanRows(arithmetic, task, cancelled),
  aside: (task) => finishPlan(task),
  weights: (task, arithmetic, cancelled) => rowWeights(arithmetic, task, cancelled),
  draw: (task) => draw(task),
  output_draw: (task) => drawOutputs(task),
  keys: ({ run, segment, certify }, arithmetic, cancelled) => {
    const space = workspace(arithmetic, run, certify);
    const certificate = certify ? new KeyCertificate(space) : null;
    keyPass(space, run, segment, certificate, cancelled);
    return certificate && shared(certificate.side);
  },
  join: ({ run, side, certificate }) => {
    if (side === 'key') joinKeys(run);
    else joinQueries(run);
    return certificate.length > 0 ? shared(joinKeySides(certificate)) : null;
  },
  queries: ({ run, segment, certificate: keys }, arithmetic, cancelled) => {
    const space = workspace(arithmetic, run, keys !== null);
    const certificate = keys && new QueryCertificate(space, keys);
    queryPass(space, run, segment, certificate, drawnQuerySums, cancelled);
    return certificate && shared(certificate.side);
  },
  certificate: (task) => bounds(task),
  left: ({ run, segment }, arithmetic, cancelled) =>
    leftPass(workspace(arithmetic, run), run, segment, drawnKeySums, cancelled),
  gradients: ({ run }, arithmetic, cancelled) => headGradients(arithmetic, run, cancelled),
  collect: (task) => collect(task),
  inputs: ({ request }, arithmetic, cancelled) => addInputGradients(arithmetic, request, cancelled),
  sampled_exact: ({ sampled, segment }, arithmetic, cancelled) =>
    sampledExactPass(workspace(arithmetic, sampled.run), sampled, segment, cancelled),
  sampled_errors: ({ sampled, segment }, arithmetic, cancelled) =>
    sampledErrorPass(workspace(arithmetic, sampled.run), sampled, segment, cancelled),
  sampled_keys: ({ sampled, range }, arithmetic, cancelled) => {
    for (const one of sampled) {
      const mark = arithmetic.mark();
      sampledKeyPass(workspace(arithmetic, one.run), one, range, cancelled);
      arithmetic.release(mark);
    }
  },
  output_errors: ({ sampled }, arithmetic) =>
    outputErrors(workspace(arithmetic, sampled.run), sampled),
  estimate: (task, arithmetic, cancelled) => estimate(arithmetic, task, cancelled),
};

/** The certificate wants all features evaluated. */
function workspace(arithmetic: Arithmetic, { head, plan }: HeadRun, certified = false): Workspace {
  return openWorkspace(arithmetic, head, plan, certified ? plan.features.size : plan.m);
}

/**
 * What lay in the memory of the inner loops is gone.
 *
 * @throws {CancelledError} within milliseconds of `cancelled` answering true.
 */
export function runLowRankTask(task: LowRankTask, wasm: Wasm, cancelled: Cancelled): unknown {
  checkpoint(cancelled);
  wasm.reset();
  const run = STEPS[task.step] as (
    task: LowRankTask,
    arithmetic: Arithmetic,
    cancelled: Cancelled,
  ) => unknown;
  return withNumericFailure(() => run(task, new Arithmetic(wasm), cancelled));
}
