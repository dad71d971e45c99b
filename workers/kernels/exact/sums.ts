/**
 * Sums over the rows of a problem: projections, then softmax and backward by row blocks, then the
 * contraction of the thin products with the inputs, wave by wave. Never holds more of P than one row block
 * a thread.
 */
import type { Job } from '../../job.js';
import {
  type AttentionKind,
  type AttentionProblem,
  type Contradiction,
  hasAttentionStates,
} from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import {
  type ExactPlan,
  type HeadGroup,
  makePlan,
  makeWorkspace,
  type Workspace,
} from '../attention/plan.js';
import type { AttendTask } from '../attention/task.js';
import { makeErrorSums } from '../estimate/estimate.js';
import type { ComposedNorms } from '../norms.js';
import {
  allocateOutputs,
  type GradientOutputs,
  type InputGradients,
  type ParameterGradients,
  ROLES,
  tensorsOf,
} from '../result.js';
import type { ContractTask } from './contract.js';
import { largestLogit, roundingError, type Samples } from './error/estimate.js';
import type { DrawnSizes, SampleTask } from './error/sample.js';
import {
  addErrors,
  type DrawnErrors,
  noErrors,
  type StateSampleTask,
  stateSampleTasks,
} from './error/sample-states.js';
import type { FinishTask } from './finish.js';
import type { FullTask } from './full.js';
import type { ProjectionNorms, ProjectTask } from './project.js';
import { contractTasks, fitsOneTask, fullStages, sampleTasks } from './tasks.js';
import { attendWave, composedNorms } from './wave.js';

export type SumsTask =
  | ProjectTask
  | AttendTask
  | SampleTask
  | StateSampleTask
  | ContractTask
  | FullTask
  | FinishTask;

export interface ExactOptions extends GradientOutputs {
  /** Estimate the rounding error from this many rows (see rowsForEstimate); absent: not at all. */
  readonly estimate?: { readonly rows: number; readonly seed: number };
}

/** What is known of a problem after its last row. Parts of a problem add up to it or stand beside each other. */
export interface ExactSums extends ParameterGradients {
  /** 1/2 ||O - Y||_F^2; 0 when the upstream gradient was given. */
  readonly loss: number;
  readonly attentionOutput: Float32Array | null;
  readonly inputGradients: InputGradients<Float32Array> | null;
  /** Of each query head, those of a batch item one after the other. */
  readonly headNorms: readonly ComposedNorms[];
  readonly contradiction: Contradiction | null;
  readonly samples: Samples;
}

/** Tasks that share the sampling of a wave, unless all is one task. Each has sums as large as the gradients. */
const SAMPLERS = 4;

/** Rows of a wave that say how much they scatter. */
const LEAST_DRAWS = 4;

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
  const { batch } = problem.dims;
  const { totals, inputGradients, attentionOutput } = allocateOutputs(problem, options);
  const isStates = hasAttentionStates(problem) && options.inputGradients !== undefined;
  const states = (isStates && options.estimate) || null;
  const wanted = tensorsOf(totals).length > 0 || inputGradients !== null;
  const sampled = options.estimate && !states && wanted ? options.estimate : null;
  const samplers = fitsOneTask(plan) ? 1 : SAMPLERS;
  const sums = Array.from({ length: sampled ? samplers : 0 }, () =>
    Object.fromEntries(tensorsOf(totals).map(([name, x]) => [name, makeErrorSums(x.length)])),
  );
  const norms: ProjectionNorms[] = [];
  const sizes: DrawnSizes[][] = [];
  let [loss, logit] = [0, 0];
  let contradiction: Contradiction | null = null;
  const stateWaves: { draws: number; errors: DrawnErrors }[] = [];
  const squares: Partial<Record<'query' | 'key' | 'value' | 'sinks', number>> = {};

  for (const [wave, headGroups] of plan.waves.entries()) {
    const attended = yield* attendWave(plan, workspace, attentionOutput, wave);
    norms.push(...attended.norms);
    loss += attended.loss;
    contradiction ??= attended.contradiction;
    logit = Math.max(logit, largestLogit(plan, workspace));
    const share = headGroups.length / (batch * problem.dims.keyValueHeads);
    const draws = sampled ? Math.max(LEAST_DRAWS, Math.ceil(sampled.rows * share)) : 0;
    const samples: (SampleTask | StateSampleTask)[] = sampled
      ? sampleTasks(plan, workspace, wave, draws, sampled.seed, sums)
      : [];
    const stages = contractStages(
      ...([plan, workspace, headGroups, options.inputGradients, inputGradients, memory] as const),
    );
    if (states) {
      const count = Math.max(LEAST_DRAWS, Math.ceil(states.rows * share));
      stateWaves.push({ draws: count, errors: noErrors() });
      samples.push(...stateSampleTasks(plan, workspace, wave, count, states.seed, samplers));
    }
    // Samples and sums over all rows do not need each other: no thread waits in between.
    const tasks: SumsTask[] = [...samples, ...(stages[0] ?? [])];
    const drawnSizes: DrawnSizes[] = [];
    for (const mine of [tasks, ...stages.slice(1)]) {
      if (mine.length === 0) continue;
      const results = yield { name: 'contract', tasks: mine };
      mine.forEach((task, k) => {
        if (task.step === 'sample') drawnSizes.push(...(results[k] as DrawnSizes[]));
        if (task.step === 'sample_states') {
          addErrors(stateWaves.at(-1)!.errors, results[k] as DrawnErrors);
        }
        if (task.step !== 'full' || !states) return;
        const role = ROLES[task.projection];
        squares[role] = (squares[role] ?? 0) + (results[k] as number);
      });
    }
    sizes.push(drawnSizes);
    const finish: FinishTask = {
      ...{ kernel: 'exact', step: 'finish', plan, workspace, headGroups, totals },
      parts: stages.flat().map(({ batchItem, parts }) => ({ batchItem, parts })),
      sums: wave === plan.waves.length - 1 ? sums : [],
    };
    yield { name: 'finish', tasks: [finish] };
    memory.end();
  }
  if (states && totals.sinks) squares.sinks = totals.sinks.reduce((sum, x) => sum + x * x, 0);
  return {
    ...totals,
    contradiction,
    loss,
    attentionOutput,
    inputGradients,
    headNorms: composedNorms(norms, problem),
    samples: {
      sums: sums.slice(0, 1),
      ...{ sizes, states: stateWaves, squares },
      rounding: roundingError(plan, logit),
    },
  };
}

/** What a wave has summed over keys or rows meets the inputs: thin products, then those at full width. */
export function contractStages(
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
