/**
 * The gradients of a whole attention layer in float64: every head of every batch item, one at a time.
 * Slow and plain; the oracle of the tests, and the kernel for tolerances that float32 cannot keep.
 */

import type { Job } from '../../job.js';
import { type AttentionProblem, type ProjectionName, STATES } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import {
  allocateGradients,
  allocateInputGradients,
  type GradientOutputs,
  type GradientResult,
  ROLES,
  sharedFloat64,
} from '../result.js';
import type { HeadGradient } from './attention.js';
import { attend, everyHead, headOf } from './heads.js';
import { matrix } from './matrix.js';
import { chain, chainFlops, type Operation, type ReferenceTask } from './operations.js';
import { projectBack } from './project.js';
import { makeWorkspace, normsOf, rowsOfItem, type Workspace } from './workspace.js';

type Results = Omit<GradientResult, 'loss' | 'headNorms'> & {
  readonly attentionOutput: Float64Array | null;
};

function* operations(
  problem: AttentionProblem,
  outputs: GradientOutputs,
  workspace: Workspace,
  { gradients, sinks, inputGradients, attentionOutput }: Results,
): Generator<Operation> {
  const { dims, objective } = problem;
  const { queryLength, heads, headDim, valueDim } = dims;
  const { projections, loss, O } = workspace;
  /** Rows of one head in a tensor (B, Lq, H dv). */
  const rowsOfHead = (data: Float32Array | Float64Array, batchItem: number, head: number) => {
    const width = heads * valueDim;
    const at = batchItem * queryLength * width + head * valueDim;
    return matrix(data, queryLength, valueDim, at, width);
  };
  const dX = (name: ProjectionName) =>
    outputs.inputGradients &&
    (inputGradients?.[STATES[outputs.inputGradients][ROLES[name]]] as Float64Array | undefined);
  const back = (name: ProjectionName, batchItem: number, head: number) => {
    const place = { layer: problem, workspace, name, batchItem };
    return projectBack(place, head, gradients[name], dX(name));
  };
  const gradientOf = (batchItem: number, head: number): HeadGradient => {
    const keys = rowsOfItem(problem, 'k_proj', batchItem);
    return {
      objective: {
        kind: objective.kind,
        matrix: rowsOfHead(objective.tensor.data, batchItem, head),
      },
      dQ: matrix(projections.q_proj.gradient, queryLength, headDim),
      dK: matrix(projections.k_proj.gradient, keys, headDim),
      dV: matrix(projections.v_proj.gradient, keys, valueDim),
      ...{ loss, dsink: sinks?.subarray(head, head + 1) },
    };
  };
  yield* everyHead(problem, workspace, {
    *openGroup(batchItem) {
      const { dK, dV } = gradientOf(batchItem, 0);
      yield { kind: 'clear', target: dK };
      yield { kind: 'clear', target: dV };
    },
    *head(batchItem, head) {
      const gradient = gradientOf(batchItem, head);
      yield { kind: 'clear', target: gradient.dQ };
      yield* attend(headOf(problem, workspace, batchItem, head), gradient);
      yield* back('q_proj', batchItem, head);
      if (!attentionOutput) return;
      const term = matrix(O, queryLength, valueDim);
      yield { kind: 'add', target: rowsOfHead(attentionOutput, batchItem, head), term };
    },
    *closeGroup(batchItem, shared) {
      yield* back('k_proj', batchItem, shared);
      yield* back('v_proj', batchItem, shared);
    },
  });
}

export function* referenceJob(
  problem: AttentionProblem,
  outputs: GradientOutputs,
): Job<GradientResult, ReferenceTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const results = {
    ...allocateGradients(problem),
    inputGradients: allocateInputGradients(problem, outputs.inputGradients, sharedFloat64),
    attentionOutput: outputs.attentionOutput
      ? sharedFloat64(batch * queryLength * heads * valueDim)
      : null,
  };
  const memory = new Lease();
  try {
    const workspace = makeWorkspace(problem, true, memory);
    yield* chain(
      'reference',
      operations(problem, outputs, workspace, results),
      chainFlops(problem, 2),
    );
    return {
      ...results,
      loss: problem.objective.kind === 'target' ? workspace.loss[0]! : null,
      headNorms: normsOf(problem, workspace),
    };
  } finally {
    memory.end();
  }
}
