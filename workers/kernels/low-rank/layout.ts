/** Where things stand in the sums over keys and over queries, and how a head is cut into segments. */
import { type Head, scoreWidth } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { BLOCK } from './rows.js';

/**
 * Squared norms carried along as columns of the key sums: v, then u of each gradient tensor in the
 * order of TENSORS. The certificate needs their mean under every row of P.
 */
export const NORMS = 7;

/** The six gradient tensors of a head, in the order used everywhere in this kernel. */
export const TENSORS = [
  'q_proj.lora_A',
  'q_proj.lora_B',
  'k_proj.lora_A',
  'k_proj.lora_B',
  'v_proj.lora_A',
  'v_proj.lora_B',
] as const;
export type TensorName = (typeof TENSORS)[number];

const padded = (n: number) => 16 * Math.ceil(n / 16);

export interface Layout {
  /** r_q + r_k, r_v. */
  readonly p: number;
  readonly rv: number;
  /**
   * Columns of a key's row in the key sums: [1 | v | u | va | norms | v (x) u], and where each begins.
   * Summed against the features of the keys they are Z, ZU and M in one product.
   */
  readonly keyWidth: number;
  readonly atV: number;
  readonly atU: number;
  readonly atVA: number;
  readonly atNorms: number;
  readonly atVU: number;
  /** Columns of a query's row in the query sums: [(G.O) l | G B_V | G (x) l]. */
  readonly queryWidth: number;
  readonly atGB: number;
  readonly atGL: number;
  /** Sizes of the six gradients of a head, and where each begins in one flat array. */
  readonly gradientSizes: readonly number[];
  readonly gradientAt: readonly number[];
  readonly gradientTotal: number;
}

export function layout(head: Head): Layout {
  const p = scoreWidth(head);
  const { d, dv, query, key, value } = head;
  const rv = value.rank;
  const atVA = 1 + dv + p;
  const atVU = padded(atVA + rv + NORMS);
  const atGL = padded(p + rv);
  const gradientSizes = [
    query.rank * query.effective.inputs,
    d * query.rank,
    key.rank * key.effective.inputs,
    d * key.rank,
    rv * value.effective.inputs,
    dv * rv,
  ];
  const gradientAt = gradientSizes.map((_, t) =>
    gradientSizes.slice(0, t).reduce((a, b) => a + b, 0),
  );
  return {
    p,
    rv,
    atV: 1,
    atU: 1 + dv,
    atVA,
    atNorms: atVA + rv,
    atVU,
    keyWidth: padded(atVU + dv * p),
    atGB: p,
    atGL,
    queryWidth: padded(atGL + dv * p),
    gradientSizes,
    gradientAt,
    gradientTotal: gradientSizes.reduce((a, b) => a + b, 0),
  };
}

export interface Segment {
  readonly from: number;
  readonly to: number;
}

/** Memory that the sums of all segments of one head may take, in float64 numbers. */
const SUMS_BUDGET = 2 ** 24;
const LONGEST_CUT = 16;
const SHORTEST_SEGMENT = 16 * BLOCK;

/**
 * The cut of a head into segments, the same for queries and keys. It depends on the problem and the
 * plan only: the answer must not depend on the number of workers.
 */
export function segments(head: Head, plan: HeadPlan): Segment[] {
  const { keyWidth, queryWidth } = layout(head);
  const length = Math.max(head.queryLength, head.keyLength);
  const affordable = Math.max(1, Math.floor(SUMS_BUDGET / (plan.m * (keyWidth + queryWidth))));
  const wanted = Math.max(1, Math.floor(length / SHORTEST_SEGMENT));
  const count = Math.min(LONGEST_CUT, affordable, wanted);
  const blocks = Math.ceil(length / BLOCK);
  return Array.from({ length: count }, (_, s) => ({
    from: Math.floor((s * blocks) / count) * BLOCK,
    to: Math.min(length, Math.floor(((s + 1) * blocks) / count) * BLOCK),
  }));
}
