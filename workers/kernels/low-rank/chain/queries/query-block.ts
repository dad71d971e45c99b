/** A block of queries on its way through the second pass. */
import type { Real } from '../../arithmetic/arithmetic.js';
import { BLOCK } from '../../head/block.js';
import { fullWidth } from '../../head/head.js';
import type { Layout } from '../../head/layout.js';
import { type QueryRows, queryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';

/** What is known about a block of queries once its rows of P are normalised. */
export interface QueryBlock {
  readonly rows: QueryRows;
  /** phi_i'S (BLOCK, keyWidth), times factor: the low-rank part in units of exp(score - max). */
  readonly products: Real;
  readonly max: Float64Array;
  readonly total: Float64Array;
  readonly factor: Real;
  /** 1 / D_i; 0 for outlier rows and rows past the end. */
  readonly inverse: Real;
  /** factor / D_i: the weight of the row's features in the query sums. */
  readonly weight: Real;
  /**
   * O - centre, without the exact columns where DenseColumns says so; G, G B_V (G at full width),
   * G.(O - centre).
   */
  readonly output: Real;
  readonly gradient: Real;
  readonly gradientB: Real;
  readonly shift: Real;
  /** dS U, P (X^V A_V'). */
  readonly right: Real;
  readonly rightValue: Real;
}

export function openBlock(space: Workspace, at: Layout): QueryBlock {
  const { arithmetic, head, plan } = space;
  const { dv } = head;
  // Exact columns take their scores from Q, the keys' adapter its gradients.
  const wanted =
    head.causal || plan.outlierKeys.length > 0 || head.key.rank > 0 || fullWidth(head).scores;
  return {
    rows: queryRows(space, BLOCK, wanted),
    products: arithmetic.array(BLOCK * at.keyWidth),
    max: arithmetic.sums(BLOCK),
    total: arithmetic.sums(BLOCK),
    factor: arithmetic.array(BLOCK),
    inverse: arithmetic.array(BLOCK),
    weight: arithmetic.array(BLOCK),
    output: arithmetic.array(BLOCK * dv),
    gradient: arithmetic.array(BLOCK * dv),
    gradientB: arithmetic.array(BLOCK * at.lv),
    shift: arithmetic.array(BLOCK),
    right: arithmetic.array(BLOCK * at.right),
    rightValue: arithmetic.array(BLOCK * at.rv),
  };
}
