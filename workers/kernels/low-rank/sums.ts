/** A low-rank run of a problem or of a part of one: the chain, the error estimate on fresh rows, the certificate, the correction. */

import { type Job, stage, type Task, within } from '../../job.js';
import {
  type AttentionKind,
  type AttentionProblem,
  PROJECTIONS,
  type ProjectionName,
} from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { allocateInputGradients, type GradientResult, sharedFloat32 } from '../result.js';
import { type InputsTask, inputTasks } from './chain/inputs.js';
import { type HeadRun, openRun } from './chain/run.js';
import { type ChainResult, type ChainTask, chainJob } from './chain-job.js';
import { openDrawnGradients } from './error/estimate.js';
import {
  type Draws,
  type DrawTask,
  drawRows,
  type WeightsTask,
} from './error/sampled-rows/draw-rows.js';
import { rangesOf, type SampledRange } from './error/sampled-rows/sampled-keys.js';
import {
  openKeyErrors,
  openSampledRun,
  type SampledRun,
} from './error/sampled-rows/sampled-run.js';
import type { TensorEstimate } from './error/tensor-estimate.js';
import { emptyGradients, TENSORS, type TensorName } from './head/tensors.js';
import type { LowRankPlan } from './plan/plan.js';
import { type EstimateTask, withoutCertificate } from './tensor-error.js';

export interface LowRankOptions {
  readonly seed: number;
  /** Add the estimated error: no bias, at the price of its standard error. */
  readonly correction: boolean;
  /** Compute the certificate. A corrected gradient has none. */
  readonly certificate: boolean;
  readonly attentionOutput: boolean;
  /** Whose gradients are wanted beside those of the adapters; the plan was made for it. */
  readonly inputGradients?: AttentionKind | undefined;
}

/** What a run takes of a plan. */
export type RunPlan = Pick<
  LowRankPlan,
  'heads' | 'headPlans' | 'sampledRows' | 'sampledFeatures' | 'headNorms'
>;

/** What is known after the last head. Parts of a problem add up to it or stand beside each other. */
export interface LowRankSums extends GradientResult {
  /** Estimates of the errors of the gradients. */
  readonly estimates: Partial<Record<TensorName, TensorEstimate>>;
  /** Bounds of the six tensors of every head; null: none. */
  readonly certificates: ChainResult['certificates'];
  /** Rows that were drawn. */
  readonly draws: number;
  /** Rows whose row sum the features lost. Not zero: the gradients and all error figures are void. */
  readonly lostRows: number;
}

export interface SampledTask<Step = 'sampled_exact' | 'sampled_errors'> extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: Step;
  readonly sampled: SampledRun;
  readonly segment: number;
}

interface SampledKeysTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'sampled_keys';
  /** Heads of one batch item. */
  readonly sampled: readonly SampledRun[];
  readonly range: SampledRange;
}

/** What a worker does for a run. */
export type RunTask =
  | WeightsTask
  | DrawTask
  | ChainTask
  | InputsTask
  | SampledTask<'sampled_exact'>
  | SampledTask<'sampled_errors'>
  | SampledKeysTask
  | EstimateTask;

export function* lowRankSums(
  problem: AttentionProblem,
  plan: RunPlan,
  options: LowRankOptions,
): Job<LowRankSums, RunTask> {
  const memory = new Lease();
  try {
    return yield* stages(problem, plan, options, memory);
  } finally {
    memory.end();
  }
}

function* stages(
  problem: AttentionProblem,
  plan: RunPlan,
  options: LowRankOptions,
  memory: Lease,
): Job<LowRankSums, RunTask> {
  const draws = yield* within([0, 0.05], drawRows(problem, plan, options));
  const certified = withoutCertificate(plan, options) === null;
  const sampledRuns: SampledRun[] = [];
  const outputs = options.attentionOutput ? allocateOutput(problem) : null;
  const { batch } = problem.dims;
  const item = (b: number) =>
    outputs?.subarray((b * outputs.length) / batch, ((b + 1) * outputs.length) / batch) ?? null;
  const inputGradients = allocateInputGradients(problem, options.inputGradients, sharedFloat32);
  const keyErrors = draws.lists.map((list) => openKeyErrors(plan.heads[0], list.length));
  const sizes = Object.values(emptyGradients(problem)).map(({ length }) => length);
  const drawnFeatures = openDrawnGradients(plan.sampledFeatures > 0 ? sizes : sizes.map(() => 0));
  let loss = 0;
  let lostRows = 0;
  const open = (h: number, memory: Lease) => {
    const head = plan.heads[h];
    return openRun(head, plan.headPlans[h], draws.lists[head.batch], item(head.batch), memory);
  };
  const chain = chainJob(
    problem,
    plan.heads.length,
    open,
    { certified, drawnFeatures },
    function* (runs: readonly HeadRun[]): Job<void, RunTask> {
      for (const run of runs) {
        for (const part of run.loss) loss += part;
        for (const part of run.lostRows) lostRows += part;
      }
      if (inputGradients) {
        const tasks = inputTasks(problem, runs, options.inputGradients!, inputGradients);
        yield* stage('inputs', tasks, [0, 0.2]);
      }
      const opened = runs.map((run) => openSampledRun(run, keyErrors[run.head.batch], memory));
      yield* sampleStages(opened, draws);
      // Only what the estimate reads is kept: the memory of the chain goes to the next heads.
      for (const { run, ...rest } of opened) {
        const none = new Float64Array(0);
        sampledRuns.push({
          ...rest,
          run: {
            ...run,
            ...{ keySums: [], querySums: [], keyTotal: none, queryTotal: none },
            ...{
              outlierRows: [],
              joinedRows: none,
              outlierTerms: [],
              outlierLeft: [],
              joinedLeft: none,
            },
            ...{ outlierRight: [], drawnGradients: [], causal: null, inputs: null },
            ...{ queryGradients: [], keyGradients: [] },
          },
        });
      }
    },
  );
  const { gradients, certificates } = yield* within([0.05, 0.95], chain);
  const tensors = TENSORS.map((name, t) => ({ name, t })).filter(
    ({ name }) => gradients[name].length > 0,
  );
  const found = yield* stage(
    'estimate',
    tensors.map(
      ({ name, t }): EstimateTask => ({
        ...{ kernel: 'low_rank', step: 'estimate', sampled: sampledRuns, draws },
        ...{ drawnFeatures: drawnFeatures[t], tensor: t, gradient: gradients[name] },
        correction: options.correction,
      }),
    ),
    [0.95, 1],
  );
  const of = (name: ProjectionName) => ({
    lora_A: gradients[`${name}.lora_A`],
    lora_B: gradients[`${name}.lora_B`],
  });
  return {
    gradients: Object.fromEntries(
      PROJECTIONS.filter((name) => problem.projections[name].adapter).map((name) => [
        name,
        of(name),
      ]),
    ),
    sinks: null,
    loss: problem.objective.kind === 'target' ? loss : null,
    attentionOutput: outputs,
    inputGradients,
    headNorms: plan.headNorms,
    estimates: Object.fromEntries(tensors.map(({ name }, k) => [name, found[k]])),
    ...{ certificates, lostRows, draws: draws.draws.length },
  };
}

/** The drawn rows of some heads: exactly, and what the features make of them. */
export function* sampleStages(sampled: readonly SampledRun[], draws: Draws): Job<void, RunTask> {
  const perSegment = <Step extends SampledTask['step']>(step: Step) =>
    sampled.flatMap((one) =>
      one.run.segments.map((_, segment): SampledTask<Step> => {
        return { kernel: 'low_rank', step, sampled: one, segment };
      }),
    );
  const compared = perSegment('sampled_exact').filter(({ sampled: { exact } }) => exact.length > 0);
  yield* stage('sampled_exact', compared, [0.2, 0.5]);
  yield* stage('sampled_errors', perSegment('sampled_errors'), [0.5, 0.8]);
  // Heads of a batch item share rows of their errors: a task has all heads of some rows.
  const wideKeys = sampled.filter(({ keyErrors }) => keyErrors);
  const tasks = draws.lists.flatMap((list, b) => {
    const mine = wideKeys.filter(({ run }) => run.head.batch === b);
    if (mine.length === 0) return [];
    return rangesOf(list.length).map((range): SampledKeysTask => {
      return { kernel: 'low_rank', step: 'sampled_keys', sampled: mine, range };
    });
  });
  yield* stage('sampled_keys', tasks, [0.8, 1]);
}

function allocateOutput({ dims }: AttentionProblem): Float32Array {
  return sharedFloat32(dims.batch * dims.queryLength * dims.heads * dims.valueDim);
}
