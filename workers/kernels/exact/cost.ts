/** Floating-point operations of the exact kernel; a multiply-add counts as two. */
import { type AttentionLayer, PROJECTIONS } from '../../problem.js';
import { allPairs, projectionFlops } from '../flops.js';

/** What is computed. */
export interface Needs {
  /** O: it is asked for, or G = O - Y. */
  readonly output: boolean;
  /** Of the adapters; false: the output alone. */
  readonly gradients: boolean;
  readonly inputGradients: boolean;
}

/**
 * The exact kernel: S, dP and, if it is needed, O at full width; products with dS and P at the width of
 * an adapter's rank, or at full width where input gradients or rotary positions ask for dQ, dK, dV
 * themselves. exp is not counted.
 */
export function exactFlops(layer: AttentionLayer, needs: Needs): number {
  const { heads, headDim, valueDim } = layer.dims;
  const { output, gradients, inputGradients } = needs;
  const [q, k, v] = PROJECTIONS.map((name) =>
    gradients ? (layer.projections[name].adapter?.rank ?? 0) : 0,
  );
  const dS = q + k > 0 || inputGradients;
  const full = (adapted: number) => (adapted > 0 || inputGradients ? headDim : 0);
  const scores = inputGradients || layer.rotary ? full(q) + full(k) : 2 * (q + k);
  const values = inputGradients ? valueDim : 2 * v;
  const width = headDim + (dS ? valueDim : 0) + (output ? valueDim : 0) + scores + values;
  return (inputGradients ? 2 : 1) * projectionFlops(layer) + heads * allPairs(layer) * 2 * width;
}

/** What a pair of a row and a key costs beside its flops, expressed in flops: most of the work of narrow heads. */
export interface PairWork {
  /** Of a gradient, and of the output alone. */
  readonly gradient: number;
  readonly output: number;
}

/** Where nothing was measured. */
export const PAIR_OVERHEAD = 100;

/**
 * The flops and what they leave out, in flops: this over the rate of the exact kernel is its time.
 *
 * @param pairs as measured on this machine.
 */
export function exactWork(layer: AttentionLayer, needs: Needs, pairs?: PairWork): number {
  const overhead = pairs?.[needs.gradients ? 'gradient' : 'output'] ?? PAIR_OVERHEAD;
  return exactFlops(layer, needs) + overhead * layer.dims.heads * allPairs(layer);
}
