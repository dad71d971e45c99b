/** Floating-point operations of the float64 kernel; a multiply-add counts as two. */
import type { AttentionLayer } from '../../problem.js';
import { allPairs, projectionFlops } from '../flops.js';

/** What exp and the bookkeeping of a pair cost, in flops. */
const PAIR_FLOPS = 16;
/** Flops of the exact kernel in the time of one. */
const SLOWNESS = 50;

/** Flops of a gradient; an upper limit for the output alone. */
export function referenceFlops(layer: AttentionLayer): number {
  const { heads, headDim, valueDim } = layer.dims;
  const pair = 2 * (3 * headDim + 3 * valueDim) + PAIR_FLOPS;
  return 3 * projectionFlops(layer) + heads * allPairs(layer) * pair;
}

/** The same as flops of the exact kernel that take as long. */
export const referenceWork = (layer: AttentionLayer): number => SLOWNESS * referenceFlops(layer);
