/** The output of a whole attention layer in float64, one head at a time: the oracle of POST /forward. */

import type { Cancelled, Job, Task } from '../../job.js';
import type { AttentionLayer } from '../../problem.js';
import type { ComposedNorms } from '../norms.js';
import { type ForwardResult, sharedFloat64 } from '../result.js';
import { headOutput } from './attention.js';
import { headLayer, normsOf, projectedHeads } from './heads.js';

export interface ReferenceForwardTask extends Task {
  readonly kernel: 'reference_forward';
  readonly layer: AttentionLayer;
  /** (B, Lq, H dv) */
  readonly attentionOutput: Float64Array;
}

export function runReferenceForwardTask(
  { layer, attentionOutput }: ReferenceForwardTask,
  cancelled: Cancelled,
): ComposedNorms[] {
  const { queryLength, heads, valueDim } = layer.dims;
  const headNorms: ComposedNorms[] = [];
  for (const composed of projectedHeads(layer)) {
    const { batchItem, head, query, key, value } = composed;
    headNorms.push(normsOf(query, key, value, layer.scaling));
    const O = headOutput(headLayer(layer, composed), cancelled);
    for (let i = 0; i < queryLength; i++) {
      const at = ((batchItem * queryLength + i) * heads + head) * valueDim;
      attentionOutput.set(O.getRow(i), at);
    }
  }
  return headNorms;
}

export function* referenceForwardJob(
  layer: AttentionLayer,
): Job<ForwardResult, ReferenceForwardTask> {
  const { batch, queryLength, heads, valueDim } = layer.dims;
  const attentionOutput = sharedFloat64(batch * queryLength * heads * valueDim);
  const [headNorms] = (yield {
    name: 'reference',
    uncut: true,
    tasks: [{ kernel: 'reference_forward', layer, attentionOutput }],
  }) as [ComposedNorms[]];
  return { attentionOutput, headNorms };
}
