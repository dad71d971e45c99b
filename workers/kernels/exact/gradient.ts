/**
 * The LoRA gradients of an attention layer, exact up to float32 rounding, as a job: projections,
 * then softmax and backward by row blocks, then the contraction of the thin products with the
 * inputs. Never holds more of P than one row block a thread.
 */
import type { AttentionProblem, ProjectionName } from '../../../src/lora/problem.js';
import { type Cancelled, CancelledError, type Job } from '../job.js';
import type { ComposedNorms } from '../norms.js';
import { allocateGradients, type GradientResult } from '../result.js';
import type { Wasm } from '../wasm/instance.js';
import { type AttendTask, runAttend } from './attend.js';
import { type ContractTask, runContract } from './contract.js';
import { type FinishTask, runFinish } from './finish.js';
import { makePlan, makeWorkspace } from './plan.js';
import { type ProjectionNorms, type ProjectTask, runProject } from './project.js';
import { attendStages, contractTasks, projectTasks } from './tasks.js';

export type ExactTask = ProjectTask | AttendTask | ContractTask | FinishTask;

export interface ExactOptions {
  readonly attentionOutput: boolean;
}

export function* exactJob(
  problem: AttentionProblem,
  options: ExactOptions,
): Job<GradientResult, ExactTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const plan = makePlan(problem, options.attentionOutput);
  const workspace = makeWorkspace(plan);
  const gradients = allocateGradients(problem);
  const attentionOutput = options.attentionOutput
    ? new Float32Array(new SharedArrayBuffer(4 * batch * queryLength * heads * valueDim))
    : null;
  const norms: ProjectionNorms[] = [];
  let loss = 0;

  for (const [wave, units] of plan.waves.entries()) {
    const project = projectTasks(plan, workspace, units);
    norms.push(...((yield { name: 'project', tasks: project }) as ProjectionNorms[]));
    for (const tasks of attendStages(plan, workspace, attentionOutput, wave)) {
      const losses = (yield { name: 'attend', tasks }) as number[];
      for (const part of losses) loss += part;
    }
    const contract = contractTasks(plan, workspace, units);
    yield { name: 'contract', tasks: contract };
    const parts = contract.map(({ batchItem, parts }) => ({ batchItem, parts }));
    const finish = { plan, workspace, units, parts, gradients };
    yield { name: 'finish', tasks: [{ kernel: 'exact', step: 'finish', ...finish }] };
  }
  return {
    gradients,
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
    case 'contract':
      return runContract(task, wasm, checkpoint);
    case 'finish':
      return runFinish(task);
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
