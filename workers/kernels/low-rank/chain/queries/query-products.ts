/** Products of a block of queries with the sums over keys, and the columns that the sums over queries are made of. */
import { ROWS } from '../../../inner/block.js';
import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import { BLOCK } from '../../head/block.js';
import { fullWidth } from '../../head/head.js';
import type { Layout } from '../../head/layout.js';
import type { Workspace } from '../../head/workspace.js';
import { type DenseColumns, denseForward, rescale } from '../dense.js';
import type { QueryBlock } from './query-block.js';

/** Below this share of the smallest row sum to expect, a row sum is an artefact of the polynomial. */
const LOST = 0.25;

/**
 * Rows whose low-rank row sum makes no sense. With the keys centred, the mean of exp over them is at
 * least exp of the mean (Jensen), about 1: sum_j w_j exp(score) is not much below sum_j w_j. One such row
 * can be all of the error, and no sample of rows need find it.
 */
export function lostRows(space: Workspace, at: Layout, block: QueryBlock, weights: number): number {
  const { rows, products } = block;
  let lost = 0;
  for (let r = 0; r < rows.count; r++) {
    if (rows.logScale[r] === -Infinity) continue;
    const scale = Math.exp(rows.logScale[r] - space.plan.logWeightShift);
    if (!(scale * products[r * at.keyWidth] >= LOST * weights)) lost++;
  }
  return lost;
}

/** D, 1 / D, O - centre and P (X^V A_V') of the low-rank and the exact columns together. */
export function normalise(
  space: Workspace,
  at: Layout,
  block: QueryBlock,
  dense: DenseColumns[],
  outputWanted: (first: number) => boolean,
): void {
  const { arithmetic, head } = space;
  const { dv } = head;
  const { rows, products, max, total, factor, inverse, weight, output, rightValue } = block;
  for (let r = 0; r < rows.count; r++) {
    // An outlier row is not this pass's business: any finite scale will do.
    max[r] = rows.logScale[r] === -Infinity ? 0 : rows.logScale[r];
    total[r] = products[r * at.keyWidth];
  }
  const width = at.keyWidth;
  arithmetic.copyColumns(rows.count, dv, products, width, at.atV, output, dv, 0);
  arithmetic.copyColumns(rows.count, at.rv, products, width, at.atVA, rightValue, at.rv, 0);
  const scale = new Float64Array(rows.count).fill(1);
  for (const columns of dense) {
    denseForward(space, block, columns, outputWanted);
    for (let r = 0; r < rows.count; r++) scale[r] *= factor[r];
    for (const earlier of dense) {
      if (earlier === columns) break;
      rescale(space, earlier, factor);
    }
  }
  for (let r = 0; r < BLOCK; r++) {
    const counts = r < rows.count && rows.logScale[r] !== -Infinity;
    inverse[r] = counts ? 1 / total[r] : 0;
    factor[r] = counts ? scale[r] : 0;
    weight[r] = factor[r] * inverse[r];
  }
  arithmetic.scaleRows(rows.count, dv, output, inverse);
  arithmetic.scaleRows(rows.count, at.rv, rightValue, weight);
}

/** G = O - Y or as given, and G.(O - centre). */
export function objectiveGradient(
  space: Workspace,
  block: QueryBlock,
  centre: Real,
  dense: DenseColumns[],
): void {
  const { arithmetic, head } = space;
  const { dv, kind } = head;
  const { rows, output, gradient, shift } = block;
  const size = rows.count * dv;
  arithmetic.combine(size, 1, rows.objective, 0, gradient);
  if (kind === 'target') {
    arithmetic.combine(size, 1, output, -1, gradient);
    arithmetic.addRow(rows.count, dv, centre, gradient);
  }
  arithmetic.rowDots(rows.count, dv, gradient, output, shift);
  for (const columns of dense) {
    for (let r = 0; r < rows.count; r++) {
      if (!columns.output[Math.floor(r / ROWS)]) shift[r] += block.inverse[r] * columns.dot[r];
    }
  }
}

/** The low-rank part of dS U: (G'[phi'M] - (G.O) phi'ZU) / D; at full width `right` holds the first term. */
export function rightProducts(space: Workspace, at: Layout, block: QueryBlock): void {
  const { arithmetic, head } = space;
  const { rows, products, inverse, factor, gradient, shift, right } = block;
  const { right: width } = at;
  if (width === 0) return;
  if (!fullWidth(head).scores) {
    right.fill(0);
    const ofVU = products.subarray(at.atVU);
    arithmetic.contract(rows.count, head.dv, width, gradient, ofVU, at.keyWidth, right);
  }
  for (let r = 0; r < rows.count; r++) {
    const scale = inverse[r] * factor[r];
    const from = r * at.keyWidth + at.atU;
    for (let c = 0; c < width; c++) {
      right[r * width + c] = scale * (right[r * width + c] - shift[r] * products[from + c]);
    }
  }
}

/** phi times factor / D, row by row: the features as the query sums take them. */
export function weigh(arithmetic: Arithmetic, phi: Real, m: number, block: QueryBlock): void {
  arithmetic.scaleColumns(m, BLOCK, phi, block.weight, phi);
}

/** G B_V of `rows` rows of G, or at full width G itself. */
export function valueFactor(space: Workspace, at: Layout) {
  const { arithmetic, head } = space;
  const { dv } = head;
  const full = fullWidth(head).value;
  const up = full ? null : arithmetic.pack(dv, at.lv, head.value.up);
  return (rows: number, gradient: Real, gradientB: Real): void => {
    if (up) {
      if (at.lv > 0) arithmetic.product(rows, gradient, up, gradientB);
    } else {
      gradientB.set(gradient.subarray(0, rows * dv));
    }
  };
}

/** [(G.O) l | G B_V | G (x) l] (BLOCK, queryWidth), the last at thin width only. */
export function queryColumns(
  space: Workspace,
  at: Layout,
  block: Pick<QueryBlock, 'rows' | 'gradient' | 'gradientB' | 'shift'>,
  left: Real,
): void {
  const { arithmetic, head } = space;
  const { rows, gradient, gradientB, shift } = block;
  const { left: width, lv } = at;
  for (let r = 0; r < rows.count; r++) {
    const to = r * at.queryWidth;
    for (let c = 0; c < width; c++) left[to + c] = shift[r] * rows.l[r * width + c];
  }
  arithmetic.copyColumns(rows.count, lv, gradientB, lv, 0, left, at.queryWidth, at.atGB);
  if (!fullWidth(head).scores) {
    const ofGL = left.subarray(at.atGL);
    arithmetic.outer(rows.count, head.dv, width, gradient, rows.l, ofGL, at.queryWidth);
  }
}
