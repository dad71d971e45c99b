/** The output of a whole attention layer in float64, and its norms alone: the oracles of POST /forward and /plan. */

import type { Job } from '../../job.js';
import type { AttentionLayer } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import type { ComposedNorms } from '../norms.js';
import { type ForwardResult, sharedFloat64 } from '../result.js';
import { attend, everyHead, headOf, type Visitor } from './heads.js';
import { matrix } from './matrix.js';
import { chain, chainFlops, type ReferenceTask } from './operations.js';
import { makeWorkspace, normsOf, type Workspace } from './workspace.js';

/** @returns the norms of every head of every batch item. */
function* visitHeads(
  name: string,
  layer: AttentionLayer,
  directions: 0 | 1,
  visit: (workspace: Workspace) => Visitor,
): Job<readonly ComposedNorms[], ReferenceTask> {
  const memory = new Lease();
  try {
    const workspace = makeWorkspace(layer, false, memory);
    yield* chain(
      name,
      everyHead(layer, workspace, visit(workspace)),
      chainFlops(layer, directions),
    );
    return normsOf(layer, workspace);
  } finally {
    memory.end();
  }
}

export function* referenceForwardJob(layer: AttentionLayer): Job<ForwardResult, ReferenceTask> {
  const { batch, queryLength, heads, valueDim } = layer.dims;
  const attentionOutput = sharedFloat64(batch * queryLength * heads * valueDim);
  const width = heads * valueDim;
  const headNorms = yield* visitHeads('reference', layer, 1, (workspace) => ({
    *head(batchItem, head) {
      yield* attend(headOf(layer, workspace, batchItem, head), null);
      const at = batchItem * queryLength * width + head * valueDim;
      const target = matrix(attentionOutput, queryLength, valueDim, at, width);
      yield { kind: 'add', target, term: matrix(workspace.O, queryLength, valueDim) };
    },
  }));
  return { attentionOutput, headNorms };
}

/** The composed norms of every head of every batch item: the cost of the projections. */
export function referenceNormsJob(
  layer: AttentionLayer,
): Job<readonly ComposedNorms[], ReferenceTask> {
  return visitHeads('norms', layer, 0, () => ({}));
}
