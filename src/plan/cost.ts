/** Floating-point operations of a problem; a multiply-add counts as two. */
import { type AttentionLayer, PROJECTIONS } from '../lora/problem.js';

/** Pairs (i, j) that the softmax of one head covers. */
export function visiblePairs(layer: AttentionLayer): number {
  const { queryLength, keyLength } = layer.dims;
  if (!layer.causal) return queryLength * keyLength;
  const triangle = Math.min(queryLength, keyLength);
  return (triangle * (triangle + 1)) / 2 + (queryLength - triangle) * keyLength;
}

/** X W^T + s (X A^T) B^T for all three projections. */
export function projectionFlops(layer: AttentionLayer): number {
  const { batch, queryLength, keyLength } = layer.dims;
  return PROJECTIONS.reduce((sum, name) => {
    const { inFeatures, outFeatures, adapter } = layer.projections[name];
    const rows = batch * (name === 'q_proj' ? queryLength : keyLength);
    const rank = adapter?.rank ?? 0;
    return sum + 2 * rows * (inFeatures * outFeatures + rank * (inFeatures + outFeatures));
  }, 0);
}

/** Forward and full backward of the reference kernel: S, O, dP, dQ, dK and dV for every pair. */
export function referenceFlops(layer: AttentionLayer): number {
  const { batch, heads, headDim, valueDim, queryLength, keyLength } = layer.dims;
  // It computes what the causal mask hides as well.
  const pairs = batch * heads * queryLength * keyLength;
  return projectionFlops(layer) + pairs * 6 * (headDim + valueDim);
}
