/**
 * Columns of P treated exactly: the outlier keys and, under a causal mask, the keys of the diagonal
 * block. Their scores join the low-rank part of the row in one softmax.
 */
import type { Real } from './arithmetic.js';
import { maskScores } from './keys.js';
import { layout } from './layout.js';
import { BLOCK, type KeyRows, keyRows, type QueryRows, type Workspace } from './rows.js';
import { MASKED } from './run.js';

export interface DenseColumns {
  readonly count: number;
  readonly keys: KeyRows;
  /** exp(score - max) of the current block of queries (BLOCK, count), later P. */
  readonly e: Real;
  /** dS (BLOCK, count). */
  readonly ds: Real;
  readonly keysTransposed: Real;
  readonly valuesTransposed: Real;
  /** Columns to leave out: outliers that stand in a diagonal block. */
  readonly skip: (column: number) => boolean;
  /** dS'L (count, left) and P'(G B_V) (count, lv), summed over the queries of the segment. */
  readonly left: Real;
  readonly leftValue: Real;
}

/** A store of up to `capacity` exact columns. */
export function denseColumns(
  space: Workspace,
  capacity: number,
  skip: (keys: KeyRows, column: number) => boolean = () => false,
): DenseColumns & { load(rows: (r: number) => number, count: number): void } {
  const { arithmetic, head } = space;
  const { d, dv } = head;
  const at = layout(head);
  const keys = keyRows(space, capacity);
  const store = {
    count: 0,
    keys,
    e: arithmetic.array(BLOCK * capacity),
    ds: arithmetic.array(BLOCK * capacity),
    keysTransposed: arithmetic.array(d * capacity),
    valuesTransposed: arithmetic.array(dv * capacity),
    skip: (column: number) => skip(keys, column),
    left: arithmetic.array(capacity * at.left),
    leftValue: arithmetic.array(capacity * at.lv),
    load(rows: (r: number) => number, count: number) {
      store.count = count;
      keys.load(rows, count);
      arithmetic.transpose(count, d, keys.k, store.keysTransposed);
      arithmetic.transpose(count, dv, keys.v, store.valuesTransposed);
      store.left.fill(0);
      store.leftValue.fill(0);
    },
  };
  return store;
}

/** Scores of a block of queries against the exact columns, joined into the running softmax of each row. */
export function denseForward(
  space: Workspace,
  queries: QueryRows,
  columns: DenseColumns,
  max: Real,
  total: Real,
  factor: Real,
): void {
  const { arithmetic, head } = space;
  const { count, e } = columns;
  arithmetic.gemm(queries.count, count, head.d, queries.scaled, columns.keysTransposed, e);
  maskScores(head.causal, queries, columns.keys.index, count, e);
  for (let j = 0; j < count; j++) {
    if (!columns.skip(j)) continue;
    for (let i = 0; i < queries.count; i++) e[i * count + j] = MASKED;
  }
  arithmetic.softmax(queries.count, count, e, max, total, factor);
}

/**
 * P and dS of the exact columns, their share of dS U and P (X^V A_V') added to right and rightValue,
 * and dS'L and P'(G B_V) of the columns themselves. With t_ij = G_i.v_j - G_i.O_i, dS = P t.
 */
export function denseBackward(
  space: Workspace,
  queries: QueryRows,
  columns: DenseColumns,
  gradient: Real,
  gradientB: Real,
  scale: Real,
  shift: Real,
  right: Real,
  rightValue: Real,
): void {
  const { arithmetic, head } = space;
  const { count, keys, e, ds } = columns;
  const { right: rightWidth, left: leftWidth, rv, lv } = layout(head);
  const n = queries.count;
  arithmetic.gemm(n, count, head.dv, gradient, columns.valuesTransposed, ds);
  arithmetic.scoreGradient(n, count, e, ds, scale, shift);
  if (rightWidth > 0) arithmetic.gemm(n, rightWidth, count, ds, keys.u, right, true);
  if (leftWidth > 0) {
    arithmetic.transposedGemm(count, leftWidth, n, ds, queries.l, columns.left, true);
  }
  if (rv > 0) arithmetic.gemm(n, rv, count, e, keys.va, rightValue, true);
  if (lv > 0) arithmetic.transposedGemm(count, lv, n, e, gradientB, columns.leftValue, true);
}
