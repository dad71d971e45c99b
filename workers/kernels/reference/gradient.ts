/**
 * The gradients of a whole attention layer in float64: every head of every batch item, one at a time.
 * Slow and plain; the oracle of the tests, and the kernel for tolerances that float32 cannot keep.
 */

import type { Cancelled, Job, Task } from '../../job.js';
import { type AttentionProblem, PROJECTIONS, STATES, type StatesName } from '../../problem.js';
import type { ComposedNorms } from '../norms.js';
import {
  allocateGradients,
  allocateInputGradients,
  type GradientOutputs,
  type GradientResult,
  type InputGradients,
  type ParameterGradients,
  ROLES,
  sharedFloat64,
} from '../result.js';
import { headGradient } from './attention.js';
import { headLayer, normsOf, projectedHeads } from './heads.js';
import { addAdapterGradient, addInputGradient, matrixOf } from './projection.js';

export interface ReferenceTask extends Task {
  readonly kernel: 'reference';
  readonly problem: AttentionProblem;
  readonly outputs: GradientOutputs;
  /** To add to; one task owns them all. */
  readonly totals: ParameterGradients;
  readonly inputGradients: InputGradients<Float64Array> | null;
  /** (B, Lq, H dv) or null */
  readonly attentionOutput: Float64Array | null;
}

export interface ReferenceReport {
  readonly loss: number;
  readonly headNorms: readonly ComposedNorms[];
}

export function runReferenceTask(task: ReferenceTask, cancelled: Cancelled): ReferenceReport {
  const { problem, attentionOutput } = task;
  const { gradients, sinks } = task.totals;
  const { dims, projections, objective } = problem;
  const outputWidth = dims.heads * dims.valueDim;
  let loss = 0;
  const headNorms: ComposedNorms[] = [];

  for (const composed of projectedHeads(problem)) {
    const { batchItem, head, sharedHead, query, key, value, turnBack } = composed;
    headNorms.push(normsOf(query, key, value, problem.scaling));
    const firstRow = batchItem * dims.queryLength;
    const firstColumn = head * dims.valueDim;
    const gradient = headGradient(
      {
        ...headLayer(problem, composed),
        objective: {
          kind: objective.kind,
          matrix: matrixOf(objective.tensor, outputWidth, firstRow, dims.queryLength).subMatrix(
            0,
            dims.queryLength - 1,
            firstColumn,
            firstColumn + dims.valueDim - 1,
          ),
        },
      },
      cancelled,
    );
    loss += gradient.loss;
    if (sinks) sinks[head]! += gradient.dsink;
    const outcomes = {
      q_proj: { dOut: turnBack(gradient.dQ), X: query.X, owner: head },
      k_proj: { dOut: turnBack(gradient.dK), X: key.X, owner: sharedHead },
      v_proj: { dOut: gradient.dV, X: value.X, owner: sharedHead },
    };
    for (const name of PROJECTIONS) {
      const { dOut, X, owner } = outcomes[name];
      const totals = gradients[name];
      if (totals) addAdapterGradient(dOut, X, projections[name], owner, totals);
      const dX = inputRows(task, name, batchItem);
      if (dX) addInputGradient(dOut, projections[name], owner, dX);
    }
    for (let i = 0; attentionOutput && i < dims.queryLength; i++) {
      attentionOutput.set(gradient.O.getRow(i), (firstRow + i) * outputWidth + firstColumn);
    }
  }
  return { loss, headNorms };
}

/** dX of a batch item, for the input that a projection is applied to. */
function inputRows(
  { problem, outputs, inputGradients }: ReferenceTask,
  name: keyof typeof ROLES,
  batchItem: number,
): Float64Array | undefined {
  if (!inputGradients || !outputs.inputGradients) return undefined;
  const states: StatesName = STATES[outputs.inputGradients][ROLES[name]];
  const { queryLength, keyLength } = problem.dims;
  const size = (name === 'q_proj' ? queryLength : keyLength) * problem.projections[name].inFeatures;
  return inputGradients[states]?.subarray(batchItem * size, (batchItem + 1) * size);
}

/** All gradients, as one task. */
export function* referenceJob(
  problem: AttentionProblem,
  outputs: GradientOutputs,
): Job<GradientResult, ReferenceTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const totals = allocateGradients(problem);
  const inputGradients = allocateInputGradients(problem, outputs.inputGradients, sharedFloat64);
  const attentionOutput = outputs.attentionOutput
    ? sharedFloat64(batch * queryLength * heads * valueDim)
    : null;
  const results = { inputGradients, attentionOutput };
  const [report] = (yield {
    name: 'reference',
    uncut: true,
    tasks: [{ kernel: 'reference', problem, outputs, totals, ...results }],
  }) as [ReferenceReport];
  return {
    ...totals,
    ...results,
    loss: problem.objective.kind === 'target' ? report.loss : null,
    headNorms: report.headNorms,
  };
}
