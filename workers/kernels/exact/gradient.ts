/**
 * The LoRA gradients of an attention layer, exact up to float32 rounding, as a job: projections,
 * then softmax and backward by row blocks, then the contraction of the thin products with the
 * inputs. Never holds more of P than one row block a thread.
 */
import type { AttentionProblem, ProjectionName } from '../../../src/lora/problem.js';
import { type Cancelled, CancelledError, type Job } from '../job.js';
import type { ComposedNorms } from '../norms.js';
import { allocateGradients, type GradientResult } from '../result.js';
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
import { makePlan, makeWorkspace } from './plan.js';
import { type ProjectionNorms, type ProjectTask, runProject } from './project.js';
import { runSample, type SampleTask } from './sample.js';
import { attendStages, contractTasks, projectTasks, sampleTasks } from './tasks.js';

export type ExactTask =
  | ProjectTask
  | AttendTask
  | SampleTask
  | ContractTask
  | FinishTask
  | EstimateTask;

export interface ExactOptions {
  readonly attentionOutput: boolean;
  /** Estimate the rounding error from this many rows (see rowsForEstimate); absent: not at all. */
  readonly estimate?: { readonly rows: number; readonly seed: number };
}

export interface ExactResult extends GradientResult {
  /** By tensor, 'q_proj.lora_A' and so on; null when not asked for. */
  readonly errors: ErrorEstimates | null;
}

/** Tasks of a sampling stage. Each has sums as large as the gradients. */
const SAMPLERS = 4;

/** Enough rows for a figure of the right size, at a small share of the cost. */
export function rowsForEstimate({ dims }: AttentionProblem): number {
  return Math.min(24, Math.max(8, Math.ceil((dims.batch * dims.heads * dims.queryLength) / 128)));
}

export function* exactJob(
  problem: AttentionProblem,
  options: ExactOptions,
): Job<ExactResult, ExactTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const plan = makePlan(problem, options.attentionOutput);
  const workspace = makeWorkspace(plan);
  const gradients = allocateGradients(problem);
  const attentionOutput = options.attentionOutput
    ? new Float32Array(new SharedArrayBuffer(4 * batch * queryLength * heads * valueDim))
    : null;
  const sums = Array.from({ length: options.estimate ? SAMPLERS : 0 }, () =>
    Object.fromEntries(tensorsOf(gradients).map(([name, x]) => [name, makeErrorSums(x.length)])),
  );
  const norms: ProjectionNorms[] = [];
  let loss = 0;

  for (const [wave, units] of plan.waves.entries()) {
    const project = projectTasks(plan, workspace, units);
    norms.push(...((yield { name: 'project', tasks: project }) as ProjectionNorms[]));
    const attend = [...attendStages(plan, workspace, attentionOutput, wave)];
    for (const [turn, tasks] of attend.entries()) {
      const done = (turns: number) => (wave + turns / attend.length) / plan.waves.length;
      const losses = (yield {
        name: 'attend',
        tasks,
        span: [done(turn), done(turn + 1)],
      }) as number[];
      for (const part of losses) loss += part;
    }
    if (options.estimate) {
      const share = units.length / (batch * problem.dims.keyValueHeads);
      const draws = Math.max(2, Math.ceil(options.estimate.rows * share));
      const { seed } = options.estimate;
      yield { name: 'sample', tasks: sampleTasks(plan, workspace, wave, draws, seed, sums) };
    }
    const contract = contractTasks(plan, workspace, units);
    yield { name: 'contract', tasks: contract };
    const parts = contract.map(({ batchItem, parts }) => ({ batchItem, parts }));
    const finish = { plan, workspace, units, parts, gradients };
    yield { name: 'finish', tasks: [{ kernel: 'exact', step: 'finish', ...finish }] };
  }
  let errors: ErrorEstimates | null = null;
  if (options.estimate) {
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
    norms: composedNorms(norms, problem.scaling),
  };
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
    case 'finish':
      return runFinish(task);
    case 'estimate':
      return runEstimate(task);
  }
}

function composedNorms(all: readonly ProjectionNorms[], scaling: number): ComposedNorms {
  const largest = (name: ProjectionName, part: 'frozen' | 'adapter' | 'sum') =>
    all.reduce((m, norms) => (norms.projection === name ? Math.max(m, norms[part]) : m), 0);
  const root = Math.sqrt(scaling);
  return {
    query_frozen: root * largest('q_proj', 'frozen'),
    query_adapter: root * largest('q_proj', 'adapter'),
    query: root * largest('q_proj', 'sum'),
    key_frozen: root * largest('k_proj', 'frozen'),
    key_adapter: root * largest('k_proj', 'adapter'),
    key: root * largest('k_proj', 'sum'),
    value: largest('v_proj', 'sum'),
  };
}
