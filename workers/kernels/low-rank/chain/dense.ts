/**
 * Columns of P treated exactly: the outlier keys and, under a causal mask, the keys of the diagonal
 * block. Their scores join the low-rank part of the row in one softmax.
 */
import { ROWS } from '../../inner/block.js';
import type { Real } from '../arithmetic/arithmetic.js';
import { Attention, fillPanels, openPanels, type Panels } from '../arithmetic/attention.js';
import { BLOCK } from '../head/block.js';
import { layout } from '../head/layout.js';
import { type KeyRows, keyRows } from '../head/rows/key-rows.js';
import type { Workspace } from '../head/workspace.js';
import { hiddenQueries, type ThinFactor, thinFactor, wholeVectors } from './exact-block.js';
import type { QueryBlock } from './queries/query-block.js';

export interface DenseColumns {
  readonly count: number;
  readonly keys: KeyRows;
  /** Norm of the longest key. */
  readonly largest: number;
  /** E = exp(score - max) of each ROWS queries of the current block, later dS, both without 1 / D. */
  readonly parts: readonly Attention[];
  readonly queries: Panels;
  readonly gradients: Panels;
  /** U and X^V A_V' of the keys. */
  readonly u: Real;
  readonly va: Real;
  readonly l: ThinFactor;
  readonly gradientB: ThinFactor;
  /** Columns to leave out: outliers that stand in a diagonal block. */
  readonly skip: (column: number) => boolean;
  /** dS'L and P'(G B_V) of the keys (count, whole vectors), summed over the queries of the segment. */
  readonly left: Real;
  readonly leftValue: Real;
  /** G.O of these columns (BLOCK), in the units of E. */
  readonly dot: Float64Array;
  /** Whether O of these ROWS queries has the columns; a G that is given only needs G.O. */
  readonly output: boolean[];
  /** P and dS of the block (BLOCK, count), for the certificate; null: not wanted. */
  readonly rows: { readonly e: Real; readonly ds: Real } | null;
}

/** A store of up to `capacity` exact columns. */
export function denseColumns(
  space: Workspace,
  capacity: number,
  certified: boolean,
  skip: (keys: KeyRows, column: number) => boolean = () => false,
): DenseColumns & { load(rows: (r: number) => number, count: number): void } {
  const { arithmetic, head } = space;
  const { d, dv } = head;
  const at = layout(head);
  const whole = wholeVectors(capacity);
  const keys = keyRows(space, whole);
  const u = thinFactor(arithmetic, whole, at.right);
  const va = thinFactor(arithmetic, whole, at.rv);
  const parts = Array.from({ length: BLOCK / ROWS }, () => new Attention(arithmetic, whole, d));
  const rows = certified
    ? { e: arithmetic.array(BLOCK * capacity), ds: arithmetic.array(BLOCK * capacity) }
    : null;
  const store = {
    count: 0,
    keys,
    largest: 0,
    parts,
    queries: openPanels(arithmetic, BLOCK, d),
    gradients: openPanels(arithmetic, BLOCK, dv),
    u: keys.u,
    va: keys.va,
    l: thinFactor(arithmetic, BLOCK, at.left),
    gradientB: thinFactor(arithmetic, BLOCK, at.lv),
    skip: (column: number) => skip(keys, column),
    left: arithmetic.array(whole * wholeVectors(at.left)),
    leftValue: arithmetic.array(whole * wholeVectors(at.lv)),
    dot: arithmetic.sums(BLOCK),
    output: parts.map(() => true),
    rows,
    load(list: (r: number) => number, count: number) {
      store.count = count;
      keys.load(list, count);
      store.largest = arithmetic.largestNorm(count, d, keys.k);
      store.u = u.load(count, keys.u);
      store.va = va.load(count, keys.va);
      store.left.fill(0);
      store.leftValue.fill(0);
    },
  };
  return store;
}

/**
 * Scores of a block of queries against the exact columns, joined into the running softmax of each row, and
 * into O of the ROWS queries for which it is wanted. With G given, also G V' and G.O.
 */
export function denseForward(
  space: Workspace,
  block: QueryBlock,
  columns: DenseColumns,
  outputWanted: (first: number) => boolean,
): void {
  const { arithmetic, head } = space;
  const { dv } = head;
  const { rows, max, total, factor, output } = block;
  const { count, keys, queries, gradients, dot } = columns;
  const given = head.kind === 'grad_output';
  fillPanels(arithmetic, queries, rows.count, rows.scaled, Math.LOG2E);
  if (given) fillPanels(arithmetic, gradients, rows.count, rows.objective, 1);
  dot.fill(0);
  const scored = { k: keys.k, count, largest: columns.largest };
  const values = { v: keys.v, width: dv };
  const mark = arithmetic.mark();
  const top = arithmetic.array(ROWS);
  const sum = arithmetic.sums(ROWS);
  const transposed = arithmetic.array(dv * ROWS);
  const added = arithmetic.array(dv * ROWS);
  for (let first = 0; first < rows.count; first += ROWS) {
    const b = first / ROWS;
    const n = Math.min(ROWS, rows.count - first);
    for (let r = 0; r < n; r++) top[r] = max[first + r] * Math.LOG2E;
    sum.fill(0);
    transposed.fill(0);
    const hidden = hiddenQueries(head.causal, rows, first, keys, columns.skip);
    const upstream = given
      ? { gradient: gradients, block: b, dot: dot.subarray(first, first + ROWS) }
      : null;
    columns.parts[b].scores(queries, b, scored, top, true, hidden);
    columns.output[b] = outputWanted(first);
    columns.parts[b].weights(top, sum, values, columns.output[b] ? transposed : null, upstream);
    for (let r = 0; r < n; r++) {
      const i = first + r;
      const risen = top[r] * Math.LN2;
      factor[i] = Math.exp(max[i] - risen);
      total[i] = factor[i] * total[i] + sum[r];
      max[i] = risen;
    }
    const part = output.subarray(first * dv);
    arithmetic.scaleRows(n, dv, part, factor.subarray(first));
    if (!columns.output[b]) continue;
    arithmetic.transpose(dv, ROWS, transposed, added);
    arithmetic.combine(n * dv, 1, added, 1, part);
  }
  arithmetic.release(mark);
}

/** E of the columns in units of new maxima: times factor (BLOCK). */
export function rescale(space: Workspace, { parts, count, dot }: DenseColumns, factor: Real): void {
  for (let r = 0; r < BLOCK; r++) dot[r] *= factor[r];
  parts.forEach(({ e }, b) => {
    space.arithmetic.scaleColumns(count, ROWS, e, factor.subarray(b * ROWS), e);
  });
}

/**
 * P and dS of the exact columns, their share of dS U and P (X^V A_V') added to right and rightValue,
 * and dS'L and P'(G B_V) of the columns themselves. With t_ij = G_i.v_j - G_i.O_i, dS = P t.
 */
export function denseBackward(space: Workspace, block: QueryBlock, columns: DenseColumns): void {
  const { arithmetic, head } = space;
  const { rows, gradient, gradientB, inverse, shift, right, rightValue } = block;
  const at = layout(head);
  const score = wholeVectors(Math.max(at.right, at.left));
  const value = wholeVectors(Math.max(at.rv, at.lv));
  const given = head.kind === 'grad_output';
  if (!given) fillPanels(arithmetic, columns.gradients, rows.count, gradient, 1);
  const mark = arithmetic.mark();
  // 1 / D goes into the left factors, and into the right products at the end.
  const divided = ({ wide, load }: ThinFactor, x: Real) => {
    const copy = arithmetic.array(BLOCK * wide);
    arithmetic.combine(rows.count * wide, 1, load(rows.count, x), 0, copy);
    arithmetic.scaleRows(BLOCK, wide, copy, inverse);
    return copy;
  };
  const l = divided(columns.l, rows.l);
  const gb = divided(columns.gradientB, gradientB);
  const wanted = score > 0 || columns.rows !== null;
  const [scoreSum, valueSum] = [score, value].map((width) => arithmetic.array(ROWS * width));
  for (let first = 0; first < rows.count; first += ROWS) {
    const b = first / ROWS;
    const n = Math.min(ROWS, rows.count - first);
    scoreSum.fill(0);
    valueSum.fill(0);
    if (!given && wanted) {
      columns.parts[b].products(
        { v: columns.keys.v, width: head.dv },
        { gradient: columns.gradients, block: b, dot: columns.dot.subarray(first, first + ROWS) },
      );
    }
    columns.parts[b].gradients(
      shift.subarray(first),
      wanted
        ? {
            width: Math.max(score, 8),
            right: at.right > 0 ? { factor: columns.u, sum: scoreSum } : null,
            left: at.left > 0 ? { factor: l.subarray(first * score), sum: columns.left } : null,
          }
        : null,
      value > 0
        ? {
            width: value,
            right: at.rv > 0 ? { factor: columns.va, sum: valueSum } : null,
            left: at.lv > 0 ? { factor: gb.subarray(first * value), sum: columns.leftValue } : null,
          }
        : null,
    );
    const add = (width: number, wide: number, sum: Real, to: Real) => {
      for (let r = 0; r < n; r++) {
        const scale = inverse[first + r];
        for (let c = 0; c < width; c++) to[(first + r) * width + c] += scale * sum[r * wide + c];
      }
    };
    add(at.right, score, scoreSum, right);
    add(at.rv, value, valueSum, rightValue);
  }
  arithmetic.release(mark);
  if (columns.rows) spreadOut(space, block, columns, columns.rows);
}

/** P and dS row by row. */
function spreadOut(
  { arithmetic }: Workspace,
  { rows, inverse }: QueryBlock,
  { parts, count }: DenseColumns,
  { e, ds }: { readonly e: Real; readonly ds: Real },
): void {
  const mark = arithmetic.mark();
  const transposed = arithmetic.array(ROWS * count);
  parts.forEach((part, b) => {
    const n = Math.min(ROWS, rows.count - b * ROWS);
    for (const [from, to] of [
      [part.e, e],
      [part.ds, ds],
    ] as const) {
      if (n <= 0) continue;
      arithmetic.transpose(count, ROWS, from, transposed);
      arithmetic.scaleRows(n, count, transposed, inverse.subarray(b * ROWS));
      to.set(transposed.subarray(0, n * count), b * ROWS * count);
    }
  });
  arithmetic.release(mark);
}
