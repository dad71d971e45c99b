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

/**
 * The exact kernel: S, dP and, if it is needed, O at full width; every other product with P or dS has
 * the width of an adapter's rank. exp is not counted.
 */
export function exactFlops(layer: AttentionLayer, formsOutput: boolean): number {
  const { batch, heads, headDim, valueDim } = layer.dims;
  const [q, k, v] = PROJECTIONS.map((name) => layer.projections[name].adapter?.rank ?? 0);
  const wide = headDim + (q + k > 0 ? valueDim : 0) + (formsOutput ? valueDim : 0);
  const thin = 2 * (q + k + v);
  return projectionFlops(layer) + batch * heads * visiblePairs(layer) * 2 * (wide + thin);
}
