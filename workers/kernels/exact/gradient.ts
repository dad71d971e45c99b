/**
 * The LoRA gradients of an attention layer, exact up to float32 rounding, as a job: projections,
 * then softmax and backward by row blocks, then the contraction of the thin products with the
 * inputs. Never holds more of P than one row block a thread.
 */
import type { AttentionProblem } from '../../../src/lora/problem.js';
import { type Cancelled, CancelledError, type Job } from '../job.js';
import {
  allocateGradients,
  allocateInputGradients,
  type GradientOutputs,
  type GradientResult,
  sharedFloat32,
} from '../result.js';
import { makeErrorSums } from '../sampling/estimate.js';
import type { Wasm } from '../wasm/instance.js';
import { type AttendTask, runAttend } from './attend.js';
import { type ContractTask, runContract } from './contract.js';
import {
  type ErrorEstimates,
  type EstimateTask,
  runEstimate,
  summationError,
  tensorsOf,
} from './estimate.js';
import { type FinishTask, runFinish } from './finish.js';
import { type ForwardSampleTask, runForwardSample } from './forward.js';
import { type FullTask, runFull } from './full.js';
import { type ExactPlan, makePlan, makeWorkspace, type Unit, type Workspace } from './plan.js';
import { type ProjectionNorms, type ProjectTask, runProject } from './project.js';
import { runSample, type SampleTask } from './sample.js';
import { contractTasks, fullStages, sampleTasks } from './tasks.js';
import { attendWave, composedNorms } from './wave.js';

export type ExactTask =
  | ProjectTask
  | AttendTask
  | SampleTask
  | ContractTask
  | FullTask
  | ForwardSampleTask
  | FinishTask
  | EstimateTask;

export interface ExactOptions extends GradientOutputs {
  /** Estimate the rounding error from this many rows (see rowsForEstimate); absent: not at all. */
  readonly estimate?: { readonly rows: number; readonly seed: number };
}

export interface ExactResult extends GradientResult {
  /** By tensor, 'q_proj.lora_A' and so on; null when not asked for. */
  readonly errors: ErrorEstimates | null;
}

/** Tasks of a sampling stage. Each has sums as large as the gradients. */
const SAMPLERS = 4;

/** Passes over the inputs for the keys' adapter under rotary positions: each row takes its rank of them. */
const TURNED_PASSES = 192;

/** Enough rows for a figure of the right size, at a small share of the cost. */
export function rowsForEstimate({ dims, rotary, projections }: AttentionProblem): number {
  const rows = Math.min(
    24,
    Math.max(8, Math.ceil((dims.batch * dims.heads * dims.queryLength) / 128)),
  );
  const rank = rotary ? (projections.k_proj.adapter?.rank ?? 0) : 0;
  return rank ? Math.min(rows, Math.max(8, Math.floor(TURNED_PASSES / rank))) : rows;
}

export function* exactJob(
  problem: AttentionProblem,
  options: ExactOptions,
): Job<ExactResult, ExactTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const plan = makePlan(problem, options);
  const workspace = makeWorkspace(plan);
  const gradients = allocateGradients(problem);
  const inputGradients = allocateInputGradients(problem, options.inputGradients, sharedFloat32);
  const attentionOutput = options.attentionOutput
    ? sharedFloat32(batch * queryLength * heads * valueDim)
    : null;
  const sampled = options.estimate && tensorsOf(gradients).length > 0 ? options.estimate : null;
  const sums = Array.from({ length: sampled ? SAMPLERS : 0 }, () =>
    Object.fromEntries(tensorsOf(gradients).map(([name, x]) => [name, makeErrorSums(x.length)])),
  );
  const norms: ProjectionNorms[] = [];
  let loss = 0;

  for (const [wave, units] of plan.waves.entries()) {
    const attended = yield* attendWave(plan, workspace, attentionOutput, wave);
    norms.push(...attended.norms);
    loss += attended.loss;
    if (sampled) {
      const share = units.length / (batch * problem.dims.keyValueHeads);
      const draws = Math.max(2, Math.ceil(sampled.rows * share));
      const { seed } = sampled;
      yield { name: 'sample', tasks: sampleTasks(plan, workspace, wave, draws, seed, sums) };
    }
    const parts = yield* contractWave(plan, workspace, units, options, inputGradients);
    const finish = { plan, workspace, units, parts, gradients };
    yield { name: 'finish', tasks: [{ kernel: 'exact', step: 'finish', ...finish }] };
  }
  let errors: ErrorEstimates | null = null;
  if (sampled) {
    const summation = summationError(plan);
    const estimate: EstimateTask = {
      ...{ kernel: 'exact', step: 'estimate', gradients, sums, summation },
    };
    [errors] = (yield { name: 'estimate', tasks: [estimate] }) as [ErrorEstimates];
  }
  return {
    gradients,
    errors,
    loss: problem.objective.kind === 'target' ? loss : null,
    attentionOutput,
    inputGradients,
    norms: composedNorms(norms, problem.scaling),
  };
}

/** What a wave has summed over keys or rows meets the inputs; what the last step needs of it. */
function* contractWave(
  plan: ExactPlan,
  workspace: Workspace,
  units: readonly Unit[],
  { inputGradients: kind }: ExactOptions,
  inputGradients: ReturnType<typeof allocateInputGradients<Float32Array>>,
): Job<FinishTask['parts'], ExactTask> {
  const thin = contractTasks(plan, workspace, units);
  if (thin.length > 0) yield { name: 'contract', tasks: thin };
  const done: (ContractTask | FullTask)[] = [...thin];
  for (const tasks of fullStages(plan, workspace, units, kind, inputGradients)) {
    yield { name: 'contract', tasks };
    done.push(...tasks);
  }
  return done.map(({ batchItem, parts }) => ({ batchItem, parts }));
}

/** @throws {CancelledError} within milliseconds of `cancelled` answering true. */
export function runExactTask(task: ExactTask, wasm: Wasm, cancelled: Cancelled): unknown {
  const checkpoint = () => {
    if (cancelled()) throw new CancelledError();
  };
  switch (task.step) {
    case 'project':
      return runProject(task, wasm, checkpoint);
    case 'attend':
      return runAttend(task, wasm, checkpoint);
    case 'sample':
      return runSample(task, wasm, checkpoint);
    case 'contract':
      return runContract(task, wasm, checkpoint);
    case 'full':
      return runFull(task, wasm, checkpoint);
    case 'forward_sample':
      return runForwardSample(task, wasm, checkpoint);
    case 'finish':
      return runFinish(task);
    case 'estimate':
      return runEstimate(task);
  }
}
