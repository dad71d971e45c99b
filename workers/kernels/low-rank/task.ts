/** The tasks of the low-rank kernel, and what a worker thread does with one. */

import { type Cancelled, checkpointOf, type ResultOf, withNumericFailure } from '../../job.js';
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
import { screen } from './plan/screen.js';
import { longestRows } from './plan/trial/sample.js';
import { tryShares } from './plan/trial/trial.js';
import type { RunTask } from './sums.js';
import { estimate } from './tensor-error.js';

export type LowRankTask = PlanTask | RunTask | ForwardTask;
type Step = LowRankTask['step'];
type TaskOf<S extends Step> = Extract<LowRankTask, { readonly step: S }>;

/** What each step does with a task; what lies in scratch memory is gone when it is done. */
const STEPS: {
  readonly [S in Step]: (task: TaskOf<S>, arithmetic: Arithmetic) => ResultOf<TaskOf<S>>;
} = {
  split: (task, arithmetic) => splitHead(arithmetic, task),
  screen: (task, arithmetic) => screen(arithmetic, task),
  longest: (task, arithmetic) => longestRows(arithmetic, task),
  trial: (task, arithmetic) => tryShares(arithmetic, task),
  norms: (task, arithmetic) => composedNorms(arithmetic, task),
  draft: (task) => draft(task),
  scan: (task, arithmetic) => scanRows(arithmetic, task),
  aside: (task) => finishPlan(task),
  weights: (task, arithmetic) => rowWeights(arithmetic, task),
  draw: (task, arithmetic) => draw(arithmetic, task),
  output_draw: (task) => drawOutputs(task),
  keys: ({ run, segment, certify }, arithmetic) => {
    const space = workspace(arithmetic, run, certify);
    const certificate = certify ? new KeyCertificate(space) : null;
    keyPass(space, run, segment, certificate);
    return certificate && shared(certificate.side);
  },
  join: ({ run, side, certificate }, arithmetic) => {
    if (side === 'key') joinKeys(arithmetic, run);
    else joinQueries(arithmetic, run);
    return certificate.length > 0 ? shared(joinKeySides(certificate)) : null;
  },
  queries: ({ run, segment, certificate: keys }, arithmetic) => {
    const space = workspace(arithmetic, run, keys !== null);
    const certificate = keys && new QueryCertificate(space, keys);
    queryPass(space, run, segment, certificate, drawnQuerySums);
    return certificate && shared(certificate.side);
  },
  certificate: (task) => bounds(task),
  left: ({ run, segment }, arithmetic) =>
    leftPass(workspace(arithmetic, run), run, segment, drawnKeySums),
  gradients: ({ run }, arithmetic) => headGradients(arithmetic, run),
  collect: (task) => collect(task),
  inputs: ({ request }, arithmetic) => addInputGradients(arithmetic, request),
  sampled_exact: ({ sampled, segment }, arithmetic) =>
    sampledExactPass(workspace(arithmetic, sampled.run), sampled, segment),
  sampled_errors: ({ sampled, segment }, arithmetic) =>
    sampledErrorPass(workspace(arithmetic, sampled.run), sampled, segment),
  sampled_keys: ({ sampled, range }, arithmetic) => {
    for (const one of sampled) {
      const mark = arithmetic.mark();
      sampledKeyPass(workspace(arithmetic, one.run), one, range);
      arithmetic.release(mark);
    }
  },
  output_errors: ({ sampled }, arithmetic) =>
    outputErrors(workspace(arithmetic, sampled.run), sampled),
  estimate: (task, arithmetic) => estimate(arithmetic, task),
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
  const checkpoint = checkpointOf(cancelled);
  checkpoint();
  wasm.reset();
  const run = STEPS[task.step] as (task: LowRankTask, arithmetic: Arithmetic) => unknown;
  return withNumericFailure(() => run(task, new Arithmetic(wasm, checkpoint)));
}
