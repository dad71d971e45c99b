/** The tasks of the low-rank kernel, and what a worker thread does with one. */

import type { Cancelled, Task } from '../../job.js';
import type { Wasm } from '../inner/instance.js';
import { Arithmetic } from './arithmetic/arithmetic.js';
import { headGradients } from './chain/gradient.js';
import { addInputGradients, type InputRequest } from './chain/inputs.js';
import { joinKeys, joinQueries, keyPass } from './chain/keys.js';
import { leftPass } from './chain/left.js';
import { queryPass } from './chain/queries.js';
import { KeyCertificate, type KeySide } from './error/certificate/certificate-keys.js';
import { QueryCertificate } from './error/certificate/certificate-queries.js';
import { estimateTensor } from './error/estimate.js';
import { type Draws, rowWeights, type WeighedHead } from './error/sampled-rows/draw-rows.js';
import {
  type SampledRun,
  sampledErrorPass,
  sampledExactPass,
} from './error/sampled-rows/sampled.js';
import { type SampledRange, sampledKeyPass } from './error/sampled-rows/sampled-keys.js';
import { outputErrors } from './forward.js';
import { composedNorms } from './head/composed-norms.js';
import type { Segment } from './head/layout.js';
import { openWorkspace } from './head/rows.js';
import { splitHead } from './head/split.js';
import { finishPlan } from './plan/aside.js';
import { draft } from './plan/draft.js';
import type { PlanTask } from './plan/plan.js';
import { scanRows } from './plan/scan.js';
import { tryShares } from './plan/trial.js';
import { longestRows } from './plan/trial-sample.js';
import type { HeadRun } from './run.js';

export type LowRankTask = PlanTask | RunTask;

type RunTask = Task & { readonly kernel: 'low_rank' } & (
    | {
        readonly step: 'keys';
        readonly run: HeadRun;
        readonly segment: number;
        readonly certify: boolean;
      }
    | {
        readonly step: 'queries';
        readonly run: HeadRun;
        readonly segment: number;
        /** Key side of the certificate; null when none is wanted. */
        readonly certificate: KeySide | null;
      }
    | { readonly step: 'left'; readonly run: HeadRun; readonly segment: number }
    | { readonly step: 'gradients'; readonly run: HeadRun }
    | { readonly step: 'join'; readonly run: HeadRun; readonly side: 'key' | 'query' }
    | {
        readonly step: 'weights';
        /** Of one batch item. */
        readonly heads: readonly WeighedHead[];
        readonly segment: Segment;
        readonly weights: readonly Float64Array[];
      }
    | {
        readonly step: 'sampled_exact' | 'sampled_errors';
        readonly sampled: SampledRun;
        readonly segment: number;
      }
    | {
        readonly step: 'sampled_keys';
        /** Heads of one batch item. */
        readonly sampled: readonly SampledRun[];
        readonly range: SampledRange;
      }
    | { readonly step: 'inputs'; readonly request: InputRequest }
    | { readonly step: 'output_errors'; readonly sampled: SampledRun }
    | {
        readonly step: 'estimate';
        readonly sampled: readonly SampledRun[];
        readonly draws: Draws;
        readonly tail: Float64Array;
        readonly tensor: number;
        readonly size: number;
      }
  );

/**
 * What lay in the memory of the inner loops is gone.
 *
 * @throws {CancelledError} within milliseconds of `cancelled` answering true.
 */
export function runLowRankTask(task: LowRankTask, wasm: Wasm, cancelled: Cancelled): unknown {
  wasm.reset();
  return runStep(task, new Arithmetic(wasm), cancelled);
}

function runStep(task: LowRankTask, arithmetic: Arithmetic, cancelled: Cancelled): unknown {
  const mark = arithmetic.mark();
  try {
    switch (task.step) {
      case 'trial':
        return tryShares(arithmetic, task, cancelled);
      case 'split':
        return splitHead(arithmetic, task, cancelled);
      case 'longest':
        return longestRows(arithmetic, task, cancelled);
      case 'draft':
        return draft(task);
      case 'scan':
        return scanRows(arithmetic, task, cancelled);
      case 'aside':
        return finishPlan(task);
      case 'norms':
        return composedNorms(arithmetic, task, cancelled);
      case 'gradients':
        return headGradients(arithmetic, task.run);
      case 'join': {
        if (task.side === 'key') joinKeys(task.run);
        else joinQueries(task.run);
        return null;
      }
      case 'weights': {
        return rowWeights(arithmetic, task.heads, task.segment, task.weights);
      }
      case 'sampled_exact':
      case 'sampled_errors': {
        const { sampled, segment, step } = task;
        const space = openWorkspace(arithmetic, sampled.run.head, sampled.run.plan);
        const pass = step === 'sampled_exact' ? sampledExactPass : sampledErrorPass;
        return pass(space, sampled, segment, cancelled);
      }
      case 'sampled_keys':
        for (const sampled of task.sampled) {
          const space = openWorkspace(arithmetic, sampled.run.head, sampled.run.plan);
          sampledKeyPass(space, sampled, task.range, cancelled);
          arithmetic.release(mark);
        }
        return null;
      case 'output_errors': {
        const { run } = task.sampled;
        return outputErrors(openWorkspace(arithmetic, run.head, run.plan), task.sampled);
      }
      case 'inputs':
        return addInputGradients(arithmetic, task.request, cancelled);
      case 'estimate': {
        const { sampled, draws, tail, tensor, size } = task;
        return estimateTensor(arithmetic, sampled, draws, tail, tensor, size);
      }
      default: {
        const { run, segment } = task;
        const certified =
          (task.step === 'keys' && task.certify) ||
          (task.step === 'queries' && task.certificate !== null);
        const evaluated = certified ? run.plan.features.size : run.plan.m;
        const space = openWorkspace(arithmetic, run.head, run.plan, evaluated);
        if (task.step === 'keys') {
          const certificate = task.certify ? new KeyCertificate(space) : null;
          keyPass(space, run, segment, certificate, cancelled);
          return certificate && detached(certificate.side);
        }
        if (task.step === 'queries') {
          const certificate = task.certificate && new QueryCertificate(space, task.certificate);
          queryPass(space, run, segment, certificate, cancelled);
          return certificate && detached(certificate.side);
        }
        leftPass(space, run, segment, cancelled);
        return null;
      }
    }
  } finally {
    arithmetic.release(mark);
  }
}

/** A copy that no longer lies in the scratch memory: cloning a view would clone all of that. */
function detached<T>(side: T): T {
  if (side instanceof Float64Array) return side.slice() as T;
  if (Array.isArray(side)) return side.map(detached) as T;
  if (typeof side !== 'object' || side === null) return side;
  return Object.fromEntries(Object.entries(side).map(([k, v]) => [k, detached(v)])) as T;
}
