/**
 * Sums over the rows of a problem: projections, then softmax and backward by row blocks, then the
 * contraction of the thin products with the inputs, wave by wave. Never holds more of P than one row block
 * a thread.
 */
import type { Job } from '../../job.js';
import type { AttentionKind, AttentionProblem, Contradiction } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import {
  type ExactPlan,
  type HeadGroup,
  headGroupsOf,
  makePlan,
  makeWorkspace,
  type Workspace,
  wavesOf,
} from '../attention/plan.js';
import type { AttendTask } from '../attention/task.js';
import type { ComposedNorms } from '../norms.js';
import {
  allocateOutputs,
  type GradientOutputs,
  type InputGradients,
  type ParameterGradients,
} from '../result.js';
import type { ContractTask } from './contract.js';
import type { Samples } from './error/estimate.js';
import { type RowDraws, RowSamples } from './error/row-samples.js';
import type { SampleTask } from './error/sample.js';
import type { StateSampleTask } from './error/sample-states.js';
import type { FinishTask } from './finish.js';
import type { FullTask } from './full.js';
import type { ProjectionNorms, ProjectTask } from './project.js';
import { contractTasks, fullStages, inMessages, type SeveralTask } from './tasks.js';
import { attendWave, composedNorms } from './wave.js';

export type SumsTask =
  | ProjectTask
  | AttendTask
  | SampleTask
  | StateSampleTask
  | ContractTask
  | FullTask
  | SeveralTask
  | FinishTask;

export interface ExactOptions extends GradientOutputs {
  /** Estimate the rounding error from this many rows (see rowsForEstimate); absent: not at all. */
  readonly estimate?: RowDraws;
}

/** Results over all rows of a problem. Those of its parts are added up, or stand beside each other. */
export interface ExactSums extends ParameterGradients {
  /** 1/2 ||O - Y||_F^2; 0 when the upstream gradient was given. */
  readonly loss: number;
  readonly attentionOutput: Float32Array | null;
  readonly inputGradients: InputGradients<Float32Array> | null;
  /** Norms of each query head; heads of a batch item stand one after the other. */
  readonly headNorms: readonly ComposedNorms[];
  readonly contradiction: Contradiction | null;
  readonly samples: Samples;
}

export function* exactSums(
  problem: AttentionProblem,
  options: ExactOptions,
  plan: ExactPlan = makePlan(problem, options),
): Job<ExactSums, SumsTask> {
  const [memory, ofWave] = [new Lease(), new Lease()];
  try {
    return yield* sumsOfWaves(problem, options, plan, makeWorkspace(plan, memory), ofWave);
  } finally {
    memory.end();
    ofWave.end();
  }
}

function* sumsOfWaves(
  problem: AttentionProblem,
  options: ExactOptions,
  plan: ExactPlan,
  workspace: Workspace,
  memory: Lease,
): Job<ExactSums, SumsTask> {
  const outputs = allocateOutputs(problem, options);
  const { totals, inputGradients, attentionOutput } = outputs;
  const rows = new RowSamples(plan, workspace, totals, inputGradients, options.estimate ?? null);
  const norms: ProjectionNorms[] = [];
  let loss = 0;
  let contradiction: Contradiction | null = null;

  for (let wave = 0; wave < wavesOf(plan); wave++) {
    const attended = yield* attendWave(plan, workspace, attentionOutput, wave);
    norms.push(...attended.norms);
    loss += attended.loss;
    contradiction ??= attended.contradiction;
    yield* contractWave(plan, workspace, wave, options.inputGradients, outputs, rows, memory);
  }
  return {
    ...totals,
    contradiction,
    loss,
    attentionOutput,
    inputGradients,
    headNorms: composedNorms(norms, problem),
    samples: rows.samples(totals),
  };
}

/** The sums of a wave meet the inputs, and some of its rows are looked at twice. */
export function* contractWave(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  kind: AttentionKind | undefined,
  { totals, inputGradients }: ReturnType<typeof allocateOutputs>,
  rows: RowSamples,
  memory: Lease,
): Job<void, SumsTask> {
  const headGroups = headGroupsOf(plan, wave);
  const samples = rows.tasks(wave);
  const stages = contractStages(plan, workspace, headGroups, kind, inputGradients, memory);
  // Samples and sums over all rows do not need each other: no thread waits in between.
  const tasks: SumsTask[] = [...samples, ...(stages[0] ?? [])];
  for (const mine of [tasks, ...stages.slice(1)]) {
    if (mine.length > 0) rows.take(mine, yield* inMessages('contract', mine));
  }
  const finish: FinishTask = {
    ...{ kernel: 'exact', step: 'finish', plan, workspace, headGroups, totals },
    parts: stages.flat().map(({ batchItem, parts }) => ({ batchItem, parts })),
    sums: rows.sumsToMerge(wave),
  };
  yield { name: 'finish', tasks: [finish] };
  memory.end();
}

/** What a wave has summed over keys or rows meets the inputs: thin products, then those at full width. */
function contractStages(
  plan: ExactPlan,
  workspace: Workspace,
  headGroups: readonly HeadGroup[],
  kind: AttentionKind | undefined,
  inputGradients: InputGradients<Float32Array> | null,
  memory: Lease,
): (ContractTask | FullTask)[][] {
  const thin = contractTasks(plan, workspace, headGroups, memory);
  const full = fullStages(plan, workspace, headGroups, kind, inputGradients, memory);
  return [thin, ...full].filter((tasks) => tasks.length > 0);
}
