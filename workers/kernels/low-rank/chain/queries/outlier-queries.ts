/** Exact rows of P and dS of the outlier queries, as the third pass and the gradients need them. */
import { ROWS } from '../../../inner/block.js';
import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import { Attention, fillPanels, openPanels } from '../../arithmetic/attention.js';
import { BLOCK } from '../../head/block.js';
import { type Layout, layout } from '../../head/layout.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { hiddenQueries, thinFactor, wholeVectors } from '../exact-block.js';
import { loadOutlierQueries, mergeRows } from '../keys.js';
import { TermSums } from '../rounding.js';
import type { HeadRun } from '../run.js';
import { valueFactor } from './query-products.js';

/** The outlier queries against each block of keys: exact rows of P and dS. */
export function outlierQueries(space: Workspace, at: Layout, run: HeadRun) {
  const { arithmetic, head } = space;
  const { d, dv, causal } = head;
  const { rows: queries, ...outlier } = outlierGradient(space, run);
  const n = queries.count;
  const capacity = ROWS * Math.ceil(n / ROWS);
  const attention = new Attention(arithmetic, BLOCK, d);
  const panels = openPanels(arithmetic, n, d);
  const gradient = openPanels(arithmetic, n, dv);
  fillPanels(arithmetic, panels, n, queries.scaled, Math.LOG2E);
  fillPanels(arithmetic, gradient, n, outlier.gradient, 1);
  const [max, inverse, shift] = [0, 0, 0].map(() => arithmetic.array(capacity));
  for (let i = 0; i < n; i++) {
    // Maxima in powers of two, rounded: the row sum is of the same units.
    max[i] = outlier.max[i] * Math.LOG2E;
    inverse[i] = outlier.inverse[i] * 2 ** (max[i] - outlier.max[i] * Math.LOG2E);
  }
  shift.set(outlier.shift);
  // 1 / D goes into the left factors, and into the right products at the end.
  const divided = (width: number, x: Real) => {
    const copy = arithmetic.array(capacity * wholeVectors(width));
    arithmetic.copyColumns(n, width, x, width, 0, copy, wholeVectors(width), 0);
    arithmetic.scaleRows(n, wholeVectors(width), copy, inverse);
    return copy;
  };
  const [l, gradientB] = [divided(at.left, queries.l), divided(at.lv, outlier.gradientB)];
  const u = thinFactor(arithmetic, BLOCK, at.right);
  const score = Math.max(u.wide, wholeVectors(at.left));
  const right = arithmetic.array(capacity * u.wide);
  const sums = arithmetic.sums(right.length);
  const leftBlock = blockSum(arithmetic, at.left);
  const valueBlock = blockSum(arithmetic, at.lv);
  const terms = new TermSums(space, n, null, ROWS);
  const weights = arithmetic.array(ROWS * BLOCK);
  // Known from the pass before.
  const [total, dot] = [arithmetic.sums(ROWS), arithmetic.sums(ROWS)];
  const of = (x: Real, b: number, width: number) =>
    x.subarray(b * ROWS * width, (b + 1) * ROWS * width);
  return {
    advance(keys: KeyRows, left: Real, leftValue: Real): void {
      const { count } = keys;
      const scored = { k: keys.k, count, largest: arithmetic.largestNorm(count, d, keys.k) };
      const values = { v: keys.v, width: dv };
      const factor = u.load(count, keys.u);
      const [toLeft, toValue] = [leftBlock.open(left), valueBlock.open(leftValue)];
      terms.load(keys);
      for (let b = 0; b * ROWS < n; b++) {
        const hidden = hiddenQueries(causal, queries, b * ROWS, keys);
        attention.scores(panels, b, scored, of(max, b, 1), false, hidden);
        const upstream = { gradient, block: b, dot };
        attention.weights(of(max, b, 1), total, values, null, score > 0 ? upstream : null);
        arithmetic.transpose(count, ROWS, attention.e, weights);
        terms.add(b * ROWS, Math.min(ROWS, n - b * ROWS), weights);
        attention.gradients(
          of(shift, b, 1),
          score > 0
            ? {
                width: score,
                right: u.width > 0 ? { factor, sum: of(right, b, score) } : null,
                left: at.left > 0 ? { factor: of(l, b, score), sum: toLeft } : null,
              }
            : null,
          at.lv > 0
            ? {
                width: valueBlock.wide,
                right: null,
                left: { factor: of(gradientB, b, valueBlock.wide), sum: toValue },
              }
            : null,
        );
      }
      leftBlock.close(count, left);
      valueBlock.close(count, leftValue);
      arithmetic.fold(right.length, right, sums);
    },
    save(slot: Float64Array, ofTerms: Float64Array): void {
      terms.save(ofTerms, (i) => inverse[i]);
      for (let i = 0; i < n; i++) {
        for (let c = 0; c < at.right; c++) {
          slot[i * at.right + c] = inverse[i] * sums[i * u.wide + c];
        }
      }
    },
  };
}

/** Sums over outlier queries in rows of whole vectors: the block (BLOCK, width) itself, or a copy to be added. */
function blockSum(arithmetic: Arithmetic, width: number) {
  const wide = wholeVectors(width);
  const copy = wide === width ? null : arithmetic.array(BLOCK * wide);
  return {
    wide,
    open: (block: Real): Real => copy?.fill(0) ?? block,
    close(count: number, block: Real): void {
      for (let r = 0; copy && r < count; r++) {
        for (let c = 0; c < width; c++) block[r * width + c] += copy[r * wide + c];
      }
    },
  };
}

/** G, G B_V and G.(O - centre) of the outlier queries, from their exact rows of P. */
export function outlierGradient(space: Workspace, run: HeadRun) {
  const { arithmetic, head, plan } = space;
  const { dv } = head;
  const at = layout(head);
  const rows = loadOutlierQueries(space);
  const n = rows.count;
  const merged = mergeRows(space, [run.joinedRows], n);
  const gradient = arithmetic.array(n * dv);
  const gradientB = arithmetic.array(n * at.lv);
  const shift = arithmetic.array(n);
  for (let i = 0; i < n; i++) {
    let dot = 0;
    for (let a = 0; a < dv; a++) {
      const o = merged.output[i * dv + a];
      const given = rows.objective[i * dv + a];
      const g = head.kind === 'target' ? o + plan.centreV[a] - given : given;
      gradient[i * dv + a] = g;
      dot += g * o;
    }
    shift[i] = dot;
  }
  valueFactor(space, at)(n, gradient, gradientB);
  return { rows, gradient, gradientB, shift, ...merged };
}
