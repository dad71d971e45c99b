/** What sampled gradients cost, in the flops of the exact kernel: over its rate that is the time. */
import type { AttentionLayer, AttentionProblem } from '../../../problem.js';
import { exactFlops, type Needs, PAIR_OVERHEAD } from '../../exact/cost.js';
import { allPairs, projectionFlops } from '../../flops.js';
import { ROWS } from '../../inner/block.js';
import { measuredOf } from '../error/blocks.js';
import { COORDINATES, looksAt, NEAR } from './plan.js';

/** Cost of a row and a far key for each coordinate: products of bytes take 0.5 with AVX-512 VNNI, and 1 without it. */
const PROXY_FLOPS = 0.7;
/** Coordinates that take as long as the power of two. */
const PROXY_OVERHEAD = 4;
/** Draws, gathering and scattering, as a share of the passes over tiles. */
const LISTING = 0.5;
/** Row sums where the client does not know them: of some keys by proxies, of near ones exactly. */
const SUMS = 0.2;
/** A measured block: all its keys, and what these add to the gradients. */
const MEASURING = 1.9;
/** Coordinates and norms, for each token of a head. */
const TOKEN_FLOPS = 7e4;
/** Flops of the plan: for the basis of a head, and for each key of a block that it looks at. */
const BASIS_FLOPS = 1e9;
const LOOK_FLOPS = 5e4;
/** Flops that the first look at one head adds: tables of the inputs, and a choice of its own. */
export const FIRST_LOOK_FLOPS = 1.2e9;

/** Flops of one row of one head. */
export interface RowCost {
  exact(seen: number): number;
  sampled(
    of: { readonly near: number; readonly drawn: number; readonly seen: number },
    c: number,
  ): number;
  /** Work of the whole problem whatever is drawn: of each run, and of the plan. */
  readonly fixed: number;
  readonly plan: number;
}

export function rowCost(layer: AttentionLayer & Partial<AttentionProblem>, needs: Needs): RowCost {
  const { batch, heads, queryLength, keyLength } = layer.dims;
  const projections = (needs.inputGradients ? 2 : 1) * projectionFlops(layer);
  const pair = (exactFlops(layer, needs) - projections) / (heads * allPairs(layer)) + PAIR_OVERHEAD;
  const all = batch * heads;
  const blocks = Math.ceil(queryLength / ROWS);
  const measured = (MEASURING * measuredOf(all * blocks)) / (all * blocks);
  const passes = layer.known?.logSumExp ? 1 : 1 + SUMS;
  const plan = BASIS_FLOPS + looksAt(blocks, all) * keyLength * LOOK_FLOPS;
  return {
    exact: (seen) => seen * pair,
    sampled: ({ near, drawn, seen }, c) =>
      ((near + drawn) * (1 + LISTING) + measured * seen) * pair +
      passes * (seen - near) * PROXY_FLOPS * (c + PROXY_OVERHEAD),
    fixed: projections + all * queryLength * TOKEN_FLOPS,
    plan: projectionFlops(layer) + all * plan,
  };
}

/** Drawn keys of a plan that pays, at least. */
const FEWEST_DRAWN = 64;

/** Flops that no plan goes below, its own making included. */
export function leastWork(layer: AttentionLayer & Partial<AttentionProblem>, needs: Needs): number {
  const { batch, heads, queryLength } = layer.dims;
  const { fixed, plan, sampled } = rowCost(layer, needs);
  const seen = allPairs(layer) / (batch * queryLength);
  const near = Math.min(1.5 * NEAR, seen);
  const row = sampled({ near, drawn: FEWEST_DRAWN, seen }, COORDINATES[0]);
  return plan + fixed + batch * heads * queryLength * row;
}
