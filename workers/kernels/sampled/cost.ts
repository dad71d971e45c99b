/** What sampled gradients cost, in the flops of the exact kernel: over its rate that is the time. */
import type { AttentionLayer, AttentionProblem } from '../../problem.js';
import { allPairs, exactFlops, type Needs, PAIR_OVERHEAD, projectionFlops } from '../exact/cost.js';

/** Powers of two and the draw of a pair of a row and a far key, beside its products. */
const PROXY_OVERHEAD = 50;
/** Gathering, scattering and drawing in halves, as a share of the passes over tiles. */
const LISTING = 0.4;
/** Of all pairs, those of the blocks that the plan looks at, in each of its ways. */
const PILOT = 0.03;

/** Flops of one row of one head. */
export interface RowCost {
  exact(seen: number): number;
  sampled(
    of: { readonly near: number; readonly drawn: number; readonly seen: number },
    c: number,
  ): number;
  /** Of the whole problem, whatever is drawn. */
  readonly fixed: number;
}

export function rowCost(layer: AttentionLayer & Partial<AttentionProblem>, needs: Needs): RowCost {
  const projections = (needs.inputGradients ? 2 : 1) * projectionFlops(layer);
  const pairs = layer.dims.heads * allPairs(layer);
  const pair = (exactFlops(layer, needs) - projections) / pairs + PAIR_OVERHEAD;
  // Row sums are a pass of their own where the client does not know them.
  const passes = layer.known?.logSumExp ? 1 : 2;
  return {
    exact: (seen) => seen * pair,
    sampled: ({ near, drawn, seen }, c) =>
      (near + drawn) * pair * (1 + LISTING) +
      passes * (seen - near) * (2 * (c + 2) + PROXY_OVERHEAD),
    fixed: projections + projectionFlops(layer) + PILOT * pairs * 2 * pair,
  };
}
