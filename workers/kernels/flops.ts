/** Floating-point operations that all kernels share; a multiply-add counts as two. */
import { keysOf, visiblePairs } from '../mask.js';
import { type AttentionLayer, PROJECTIONS } from '../problem.js';

const sumOverBatch = ({ dims }: AttentionLayer, of: (batchItem: number) => number): number =>
  Array.from({ length: dims.batch }, (_, item) => of(item)).reduce((a, b) => a + b, 0);

/** Pairs (i, j) that the softmax covers: of one head, all batch items together. */
export const allPairs = (layer: AttentionLayer): number =>
  sumOverBatch(layer, (item) => visiblePairs(layer, item));

/** X W^T + s (X A^T) B^T for all three projections. */
export function projectionFlops(layer: AttentionLayer): number {
  const { batch, queryLength } = layer.dims;
  const keys = sumOverBatch(layer, (item) => keysOf(layer, item).last);
  return PROJECTIONS.reduce((sum, name) => {
    const { inFeatures, outFeatures, adapter } = layer.projections[name];
    const rows = name === 'q_proj' ? batch * queryLength : keys;
    const rank = adapter?.rank ?? 0;
    return sum + 2 * rows * (inFeatures * outFeatures + rank * (inFeatures + outFeatures));
  }, 0);
}
