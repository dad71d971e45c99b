/** The products of errors of sampled rows with what the gradients are made of, and where their columns stand. */

import type { Real } from '../../arithmetic/arithmetic.js';
import { scaleRows } from '../../chain/rounding.js';
import type { HeadRun } from '../../chain/run.js';
import { minus } from '../../head/affine.js';
import { fullWidth } from '../../head/head.js';
import { type Layout, layout } from '../../head/layout.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';

/**
 * One slot per segment: (n, score) of E_S, (n, 2 value) of [E_P | P~ ...]; where features are drawn, what mixed-rows.ts makes
 * these of.
 */
export interface RowErrors {
  readonly score: readonly Float64Array[];
  readonly value: readonly Float64Array[];
}

/** Numbers of a row in them. */
export function slotWidths({ head, plan }: Pick<HeadRun, 'head' | 'plan'>): {
  score: number;
  value: number;
} {
  const { score, value } = errorColumns({ head, plan });
  if (!plan.drawnFeatures) return { score, value: 2 * value };
  return { score: (head.kind === 'target' ? 2 : 1) * score, value: score + value };
}

/** Widths of E_S and E_P; with drawn features a last column has the sums of the rows themselves. */
export function errorColumns({ head, plan }: Pick<HeadRun, 'head' | 'plan'>): {
  score: number;
  value: number;
} {
  const { query, key, value, d } = head;
  const full = fullWidth(head);
  const p = query.rank + key.rank;
  const thin = p + (query.rank > 0 ? d : 0) + (key.rank > 0 ? key.effective.inputs : 0);
  const last = plan.drawnFeatures ? 1 : 0;
  return {
    score: full.scores ? layout(head).right : p > 0 ? thin + last : 0,
    value: value.rank > 0 ? value.rank + value.effective.inputs + last : 0,
  };
}

/** Sums over keys of n rows times columns: float32 for a block of keys, float64 over blocks. */
export class RowSums {
  readonly #block: Real;
  readonly #sums: Float64Array;

  constructor(
    private readonly space: Workspace,
    private readonly n: number,
    private readonly width: number,
  ) {
    this.#block = space.arithmetic.array(n * width);
    this.#sums = space.arithmetic.sums(n * width);
  }

  /** rows (n, count), columns (count, width). */
  add(count: number, rows: Real, columns: Real): void {
    const { arithmetic } = this.space;
    arithmetic.gemm(this.n, this.width, count, rows, columns, this.#block, true);
    arithmetic.fold(this.#block.length, this.#block, this.#sums);
  }

  /** Row i times factor[i]. */
  scale(factor: ArrayLike<number>): void {
    scaleRows(this.n, this.width, this.#sums, factor);
  }

  /** To columns [to, ..) of a slot (n, stride). */
  save(slot: Float64Array, stride: number, to: number): void {
    const { n, width } = this;
    for (let i = 0; i < n; i++) {
      slot.set(this.#sums.subarray(i * width, (i + 1) * width), i * stride + to);
    }
  }
}

/** [u | K - centre | X^K - centre (| 1)], as far as there are adapters for it; u alone at full width. */
export function scoreColumns(
  space: Workspace,
  at: Layout,
  keys: KeyRows,
  width: number,
  minusCentre: Real | null,
  right: Real,
): void {
  const { arithmetic, head } = space;
  const { d, query, key } = head;
  const { count } = keys;
  arithmetic.copyColumns(count, at.right, keys.u, at.right, 0, right, width, 0);
  if (fullWidth(head).scores) return;
  let to = at.right;
  if (query.rank > 0) {
    arithmetic.copyColumns(count, d, keys.k, d, 0, right, width, to);
    to += d;
  }
  if (key.rank > 0) {
    const { inputs } = key.effective;
    if (minusCentre) arithmetic.addRow(count, inputs, minusCentre, keys.xk);
    arithmetic.copyColumns(count, inputs, keys.xk, inputs, 0, right, width, to);
    to += inputs;
  }
  for (let r = 0; to < width && r < count; r++) right[r * width + to] = 1;
}

/** Takes their centres from X^V and X^V A_V': the rows that the drawn features are compared with do not add up to zero. */
export function valueCentre(
  { arithmetic }: Workspace,
  means: { readonly xv: Float64Array; readonly va: Float64Array },
) {
  const [minusXV, minusVA] = [means.xv, means.va].map((x) => minus(arithmetic, x));
  return ({ count, xv, va }: KeyRows): void => {
    if (minusVA.length === 0) return;
    arithmetic.addRow(count, minusXV.length, minusXV, xv);
    arithmetic.addRow(count, minusVA.length, minusVA, va);
  };
}

/** [X^V A_V' | X^V (| 1)]. */
export function valueColumns(space: Workspace, keys: KeyRows, width: number, right: Real): void {
  const { arithmetic, head } = space;
  const { rank, effective } = head.value;
  if (width === 0) return;
  const { inputs } = effective;
  arithmetic.copyColumns(keys.count, rank, keys.va, rank, 0, right, width, 0);
  arithmetic.copyColumns(keys.count, inputs, keys.xv, inputs, 0, right, width, rank);
  const last = rank + inputs;
  for (let r = 0; last < width && r < keys.count; r++) right[r * width + last] = 1;
}
