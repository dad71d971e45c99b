/** Where things stand in the sums over keys and over queries, and how a head is cut into segments. */

import { BLOCK } from './block.js';
import { fullWidth, type Head, scoreWidth } from './head.js';
import { featureRows, type HeadPlan } from './plan.js';

/**
 * Squared norms carried along as columns of the key sums: v, then u of each gradient tensor in the
 * order of TENSORS. The certificate needs their mean under every row of P.
 */
export const NORMS = 7;

const padded = (n: number) => 16 * Math.ceil(n / 16);

export interface Layout {
  /** Width of U and dS U: r_q + r_k, or d at full width; 0 when dS U is not needed. */
  readonly right: number;
  /** Width of L and dS'L: r_q + r_k, or d at full width; 0 when dS'L is not needed. */
  readonly left: number;
  /** Columns of X^V A_V' (r_v) and of G B_V (r_v); at full width 0, and dv columns of G. */
  readonly rv: number;
  readonly lv: number;
  /**
   * Columns of a key's row in the key sums: [1 | v | u | va | norms | v (x) u], and where each begins.
   * Summed against the features of the keys they are Z, ZU and M in one product. At full width v (x) u
   * is not among them: see wide.ts.
   */
  readonly keyWidth: number;
  readonly atV: number;
  readonly atU: number;
  readonly atVA: number;
  readonly atNorms: number;
  readonly atVU: number;
  /** Columns of a query's row in the query sums: [(G.O) l | G B_V | G (x) l]; at full width the first two. */
  readonly queryWidth: number;
  readonly atGB: number;
  readonly atGL: number;
  /** Sizes of the six gradients of a head, and where each begins in one flat array. */
  readonly gradientSizes: readonly number[];
  readonly gradientAt: readonly number[];
  readonly gradientTotal: number;
}

export function layout(head: Head): Layout {
  const { d, dv, query, key, value } = head;
  const full = fullWidth(head);
  const p = full.scores ? 0 : scoreWidth(head);
  const right = full.query ? d : p;
  const left = full.key ? d : p;
  const rv = full.value ? 0 : value.rank;
  const lv = full.value ? dv : value.rank;
  const atVA = 1 + dv + right;
  const atVU = padded(atVA + rv + NORMS);
  const atGL = padded(left + lv);
  const gradientSizes = [
    query.rank * query.effective.inputs,
    d * query.rank,
    key.rank * key.effective.inputs,
    d * key.rank,
    value.rank * value.effective.inputs,
    dv * value.rank,
  ];
  const gradientAt = gradientSizes.map((_, t) =>
    gradientSizes.slice(0, t).reduce((a, b) => a + b, 0),
  );
  return {
    right,
    left,
    rv,
    lv,
    atV: 1,
    atU: 1 + dv,
    atVA,
    atNorms: atVA + rv,
    atVU,
    keyWidth: padded(atVU + dv * p),
    atGB: left,
    atGL,
    queryWidth: padded(atGL + dv * p),
    gradientSizes,
    gradientAt,
    gradientTotal: gradientSizes.reduce((a, b) => a + b, 0),
  };
}

/** Numbers in the sums over keys and over queries: the columns above, then those of wide.ts. */
export function sumSizes(head: Head, plan: HeadPlan): { key: number; query: number } {
  const { keyWidth, queryWidth } = layout(head);
  const { right, left } = plan.hyperbolicCross;
  return {
    key: featureRows(plan) * keyWidth + (right ? right.pairs * head.dv : 0),
    query: featureRows(plan) * queryWidth + (left ? left.pairs * head.dv : 0),
  };
}

export interface Segment {
  readonly from: number;
  readonly to: number;
}

/** Memory that the sums of all segments of one head may take, in float64 numbers. */
export const SUMS_BUDGET = 2 ** 24;
export const MOST_SEGMENTS = 16;
export const SHORTEST_SEGMENT = 16 * BLOCK;

/**
 * The cut of a head into segments, the same for queries and keys. It depends on the problem and the
 * plan only: the answer must not depend on the number of workers.
 */
export function segments(head: Head, plan: HeadPlan): Segment[] {
  const { key, query } = sumSizes(head, plan);
  const length = Math.max(head.queryLength, head.keyLength);
  const affordable = Math.max(1, Math.floor(SUMS_BUDGET / (key + query)));
  const wanted = Math.max(1, Math.floor(length / SHORTEST_SEGMENT));
  const count = Math.min(MOST_SEGMENTS, affordable, wanted);
  const blocks = Math.ceil(length / BLOCK);
  return Array.from({ length: count }, (_, s) => ({
    from: Math.floor((s * blocks) / count) * BLOCK,
    to: Math.min(length, Math.floor(((s + 1) * blocks) / count) * BLOCK),
  }));
}
