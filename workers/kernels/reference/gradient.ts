/**
 * The LoRA gradients of a whole attention layer in float64: every head of every batch item, one at a
 * time. Slow and plain; the oracle of the tests, and the kernel for tolerances that float32 cannot
 * keep.
 */
import type { AttentionProblem } from '../../../src/lora/problem.js';
import type { Cancelled, Job, Task } from '../job.js';
import { type ComposedNorms, largestNorms, ZERO_NORMS } from '../norms.js';
import {
  allocateGradients,
  type GradientResult,
  type Gradients,
  sharedFloat64,
} from '../result.js';
import { headGradient } from './attention.js';
import { normsOf, projectedHeads } from './heads.js';
import { addAdapterGradient, matrixOf } from './projection.js';

export interface ReferenceTask extends Task {
  readonly kernel: 'reference';
  readonly problem: AttentionProblem;
  /** Totals to add to; one task owns them all. */
  readonly gradients: Gradients;
  /** (B, Lq, H dv) or null */
  readonly attentionOutput: Float64Array | null;
}

export interface ReferenceReport {
  readonly loss: number;
  readonly norms: ComposedNorms;
}

export function runReferenceTask(task: ReferenceTask, cancelled: Cancelled): ReferenceReport {
  const { problem, gradients, attentionOutput } = task;
  const { dims, projections, objective } = problem;
  const outputWidth = dims.heads * dims.valueDim;
  let loss = 0;
  let norms = ZERO_NORMS;

  for (const { batchItem, head, sharedHead, query, key, value } of projectedHeads(problem)) {
    norms = largestNorms(norms, normsOf(query, key, value, problem.scaling));
    const firstRow = batchItem * dims.queryLength;
    const firstColumn = head * dims.valueDim;
    const gradient = headGradient(
      {
        Q: query.output,
        K: key.output,
        V: value.output,
        objective: {
          kind: objective.kind,
          matrix: matrixOf(objective.tensor, outputWidth, firstRow, dims.queryLength).subMatrix(
            0,
            dims.queryLength - 1,
            firstColumn,
            firstColumn + dims.valueDim - 1,
          ),
        },
        scaling: problem.scaling,
        causal: problem.causal,
      },
      cancelled,
    );
    loss += gradient.loss;
    const { q_proj, k_proj, v_proj } = gradients;
    if (q_proj) addAdapterGradient(gradient.dQ, query.X, projections.q_proj, head, q_proj);
    if (k_proj) addAdapterGradient(gradient.dK, key.X, projections.k_proj, sharedHead, k_proj);
    if (v_proj) addAdapterGradient(gradient.dV, value.X, projections.v_proj, sharedHead, v_proj);
    for (let i = 0; attentionOutput && i < dims.queryLength; i++) {
      attentionOutput.set(gradient.O.getRow(i), (firstRow + i) * outputWidth + firstColumn);
    }
  }
  return { loss, norms };
}

export interface ReferenceOptions {
  readonly attentionOutput: boolean;
}

/** All gradients, as one task. */
export function* referenceJob(
  problem: AttentionProblem,
  options: ReferenceOptions,
): Job<GradientResult, ReferenceTask> {
  const { batch, queryLength, heads, valueDim } = problem.dims;
  const gradients = allocateGradients(problem);
  const attentionOutput = options.attentionOutput
    ? sharedFloat64(batch * queryLength * heads * valueDim)
    : null;
  const [report] = (yield {
    name: 'reference',
    tasks: [{ kernel: 'reference', problem, gradients, attentionOutput }],
  }) as [ReferenceReport];
  return {
    gradients,
    loss: problem.objective.kind === 'target' ? report.loss : null,
    attentionOutput,
    norms: report.norms,
  };
}
