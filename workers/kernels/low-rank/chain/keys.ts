/**
 * First pass, over the keys of a segment: the sums that every query needs,
 *
 *     Z = sum_j w_j phi(k_j) [v_j, 1]',  ZU = sum_j w_j phi(k_j) u_j',  M = sum_j w_j phi(k_j) (v_j (x) u_j)'
 *
 * as one product (after arXiv 2406.03136, with the thin factor u multiplied in before the Khatri-Rao
 * product; at full width M comes by itself, see wide.ts), and the running softmax of the outlier
 * queries, whose rows of P are exact.
 */
import { ROWS } from '../../inner/block.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import { Attention, fillPanels, openPanels } from '../arithmetic/attention.js';
import { BlockSums } from '../arithmetic/block-sums.js';
import { BLOCK } from '../head/block.js';
import { fullWidth } from '../head/head.js';
import { type Layout, layout } from '../head/layout.js';
import { squaredNorms } from '../head/norms.js';
import { featureRows } from '../head/plan.js';
import { type KeyRows, keyRows } from '../head/rows/key-rows.js';
import { type QueryRows, queryRows } from '../head/rows/query-rows.js';
import { weightedFeatures } from '../head/rows/weighted-features.js';
import type { Workspace } from '../head/workspace.js';
import { hiddenQueries } from './exact-block.js';
import { NORMS_OF_ROW } from './rounding.js';
import { addSlots, EMPTY, exactWidth, type HeadRun, MASKED } from './run.js';
import { wideSums } from './wide.js';

/** Looks at every block of keys. */
interface KeyObserver {
  add(space: Workspace, rows: KeyRows): void;
}

export function keyPass(
  space: Workspace,
  run: HeadRun,
  s: number,
  certificate: KeyObserver | null,
): void {
  const { arithmetic, head, plan } = space;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const wanted =
    certificate !== null ||
    plan.outlierQueries.length > 0 ||
    fullWidth(head).scores ||
    head.beta === 0;
  const rows = keyRows(space, BLOCK, wanted ? 'all' : 'features');
  const m = featureRows(plan);
  const phi = arithmetic.array(m * BLOCK);
  const features = weightedFeatures(space);
  const right = arithmetic.array(BLOCK * at.keyWidth);
  const operand = arithmetic.pack(BLOCK, at.keyWidth, right);
  const sums = new BlockSums(arithmetic, m * at.keyWidth);
  const wide = wideSums(arithmetic, head, plan.hyperbolicCross.right);
  const wideSum = new BlockSums(arithmetic, run.keySums[s].length - sums.length);
  const means = inputSums(space);
  const outliers =
    plan.outlierQueries.length > 0 ? exactRows(space, loadOutlierQueries(space), false) : null;
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    rows.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    keyColumns(space, at, rows, right, certificate !== null);
    features(rows.z, rows.count, (r) => Math.exp(rows.logWeight[r]), phi);
    arithmetic.repack(operand, right);
    arithmetic.product(m, phi, operand, sums.block, true);
    sums.next();
    wide?.add(phi, rows.v, rows.u, wideSum.block);
    wideSum.next();
    certificate?.add(space, rows);
    means?.add(rows);
    outliers?.advance(rows);
  }
  run.keySums[s].set(sums.total());
  run.keySums[s].set(wideSum.total(), sums.length);
  means?.save(run.inputSums[s]);
  outliers?.save(run.outlierRows[s]);
}

/** Sums of the rows of X^K and X^V of a segment; null where no features are drawn. */
function inputSums({ arithmetic, head, plan }: Workspace) {
  if (!plan.drawnFeatures) return null;
  const [inK, inV] = [head.key.effective.inputs, head.value.effective.inputs];
  const ones = arithmetic.array(BLOCK).fill(1);
  const block = arithmetic.array(inK + inV);
  const sums = arithmetic.sums(inK + inV);
  return {
    add({ count, xk, xv }: Pick<KeyRows, 'count' | 'xk' | 'xv'>): void {
      arithmetic.gemm(1, inK, count, ones, xk, block);
      arithmetic.gemm(1, inV, count, ones, xv, block.subarray(inK));
      arithmetic.fold(block.length, block, sums);
    },
    save(slot: Float64Array): void {
      slot.set(sums);
    },
  };
}

/**
 * [1 | v | u | va | norms | v (x) u] (BLOCK, keyWidth) of a block of keys, the last at thin width only. The norms serve the
 * certificate only, and stay 0 without one.
 */
export function keyColumns(
  space: Workspace,
  at: Layout,
  rows: KeyRows,
  right: Real,
  certified: boolean,
): void {
  const { arithmetic, head } = space;
  const { dv } = head;
  const { count } = rows;
  const width = at.keyWidth;
  for (let r = 0; r < count; r++) right[r * width] = 1;
  arithmetic.copyColumns(count, dv, rows.v, dv, 0, right, width, at.atV);
  arithmetic.copyColumns(count, at.right, rows.u, at.right, 0, right, width, at.atU);
  arithmetic.copyColumns(count, at.rv, rows.va, at.rv, 0, right, width, at.atVA);
  if (certified) {
    squaredNorms(space, rows).forEach((norms, n) => {
      for (let r = 0; r < count; r++) right[r * width + at.atNorms + n] = norms[r];
    });
  }
  if (!fullWidth(head).scores) {
    arithmetic.outer(count, dv, at.right, rows.v, rows.u, right.subarray(at.atVU), width);
  }
}

/** Scores (queries, keys) of rows of q against rising keys; pairs hidden by the mask are MASKED. */
export function maskScores(
  causal: boolean,
  queries: { readonly count: number; readonly index: Int32Array },
  keyIndex: Int32Array,
  columns: number,
  scores: Real,
): void {
  if (!causal) return;
  for (let i = 0; i < queries.count; i++) {
    const row = queries.index[i];
    for (let j = columns - 1; j >= 0 && keyIndex[j] > row; j--) scores[i * columns + j] = MASKED;
  }
}

/** The outlier queries, loaded whole: their number is small beside the length. */
export function loadOutlierQueries(space: Workspace): QueryRows {
  const { outlierQueries: list } = space.plan;
  const rows = queryRows(space, list.length);
  rows.load((r) => list[r], list.length);
  return rows;
}

/**
 * Rows of P over all keys, block by block: a running softmax with O and P (X^V A_V') beside it.
 *
 * @param maxima whether rows shall be relative to their largest score, and not to whatever is faster.
 */
export function exactRows(space: Workspace, queries: QueryRows, maxima: boolean) {
  const { arithmetic, head } = space;
  const { d, dv, causal } = head;
  const rv = head.value.rank;
  const at = dv + rv;
  const width = at + NORMS_OF_ROW;
  const n = queries.count;
  const attention = new Attention(arithmetic, BLOCK, d);
  const panels = openPanels(arithmetic, n, d);
  fillPanels(arithmetic, panels, n, queries.scaled, Math.LOG2E);
  const values = arithmetic.array(BLOCK * width);
  const [ofV, ofK] = [arithmetic.array(BLOCK), arithmetic.array(BLOCK)];
  const before = new Float32Array(ROWS);
  const factor = arithmetic.array(ROWS);
  const blocks = Array.from({ length: Math.ceil(n / ROWS) }, () => ({
    // In powers of two.
    max: arithmetic.array(ROWS).fill(EMPTY),
    total: arithmetic.sums(ROWS),
    output: arithmetic.array(width * ROWS),
  }));
  return {
    advance(keys: KeyRows): void {
      const { count } = keys;
      const largest = maxima ? Infinity : arithmetic.largestNorm(count, d, keys.k);
      arithmetic.copyColumns(count, dv, keys.v, dv, 0, values, width, 0);
      arithmetic.copyColumns(count, rv, keys.va, rv, 0, values, width, dv);
      arithmetic.rowDots(count, dv, keys.v, keys.v, ofV);
      arithmetic.rowDots(count, d, keys.k, keys.k, ofK);
      for (let r = 0; r < count; r++) {
        const [v, k] = [Math.sqrt(ofV[r]), Math.sqrt(ofK[r])];
        values.set([v, k, v * k], r * width + at);
      }
      blocks.forEach(({ max, total, output }, b) => {
        before.set(max);
        const hidden = hiddenQueries(causal, queries, b * ROWS, keys);
        attention.scores(panels, b, { k: keys.k, count, largest }, max, true, hidden);
        let risen = false;
        for (let i = 0; i < ROWS; i++) {
          factor[i] = max[i] === before[i] ? 1 : 2 ** (before[i] - max[i]);
          total[i] *= factor[i];
          risen ||= factor[i] !== 1;
        }
        if (risen) arithmetic.scaleColumns(width, ROWS, output, factor, output);
        attention.weights(max, total, { v: values, width }, output, null);
      });
    },
    save(slot: Float64Array): void {
      for (let i = 0; i < n; i++) {
        const { max, total, output } = blocks[Math.floor(i / ROWS)];
        const [to, row] = [i * (2 + width), i % ROWS];
        const top = max[row] * Math.LN2;
        // A little above the largest score: who makes the scores in another order finds none beyond it.
        slot[to] = top + Math.min(MOST_ABOVE, Math.abs(top) * 2 ** -19);
        const scale = Math.exp(top - slot[to]);
        slot[to + 1] = scale * total[row];
        for (let a = 0; a < width; a++) slot[to + 2 + a] = scale * output[a * ROWS + row];
      }
    },
  };
}

/** Weights are relative to that, and float32 holds them. */
const MOST_ABOVE = 16;

export interface MergedRows {
  readonly max: Real;
  readonly inverse: Real;
  /** O - centre (n, dv) and P (X^V A_V') (n, r_v). */
  readonly output: Float64Array;
  readonly va: Float64Array;
  /** NORMS_OF_ROW of each row. */
  readonly norms: Float64Array;
}

/** What the second pass needs of the first: key sums, but under a mask, and rows of outliers. */
export function joinKeys(
  { checkpoint }: Arithmetic,
  { head, plan, keySums, keyTotal, outlierRows, joinedRows }: HeadRun,
): void {
  if (!head.causal) addSlots(checkpoint, keySums, 0, keySums.length, keyTotal);
  const n = plan.outlierQueries.length;
  const width = joinedRows.length / n;
  for (let from = 0; from < joinedRows.length; from += width) {
    const row = joinedRows.subarray(from, from + width).fill(0);
    const max = outlierRows.reduce((most, slot) => Math.max(most, slot[from]), EMPTY);
    for (const slot of outlierRows) {
      const factor = Math.exp(slot[from] - max);
      for (let a = 1; a < width; a++) row[a] += factor * slot[from + a];
    }
    row[0] = max;
  }
}

/** What the third pass needs of the second. */
export function joinQueries({ checkpoint }: Arithmetic, run: HeadRun): void {
  const { head, querySums, queryTotal, outlierLeft, joinedLeft } = run;
  if (!head.causal) addSlots(checkpoint, querySums, 0, querySums.length, queryTotal);
  addSlots(checkpoint, outlierLeft, 0, outlierLeft.length, joinedLeft);
}

/** The running softmaxes of all segments joined, in their order. */
export function mergeRows(space: Workspace, slots: readonly Float64Array[], n: number): MergedRows {
  const { arithmetic, head } = space;
  const { dv } = head;
  const rv = head.value.rank;
  const width = exactWidth(head);
  const max = arithmetic.array(n).fill(EMPTY);
  const inverse = arithmetic.array(n);
  const output = new Float64Array(n * dv);
  const va = new Float64Array(n * rv);
  const norms = new Float64Array(n * NORMS_OF_ROW);
  for (let i = 0; i < n; i++) {
    arithmetic.checkpoint();
    for (const slot of slots) max[i] = Math.max(max[i], slot[i * width]);
    let total = 0;
    for (const slot of slots) {
      const from = i * width;
      const factor = Math.exp(slot[from] - max[i]);
      total += factor * slot[from + 1];
      for (let a = 0; a < dv; a++) output[i * dv + a] += factor * slot[from + 2 + a];
      for (let c = 0; c < rv; c++) va[i * rv + c] += factor * slot[from + 2 + dv + c];
      for (let c = 0; c < NORMS_OF_ROW; c++) {
        norms[i * NORMS_OF_ROW + c] += factor * slot[from + 2 + dv + rv + c];
      }
    }
    inverse[i] = 1 / total;
    for (let a = 0; a < dv; a++) output[i * dv + a] /= total;
    for (let c = 0; c < rv; c++) va[i * rv + c] /= total;
    for (let c = 0; c < NORMS_OF_ROW; c++) norms[i * NORMS_OF_ROW + c] /= total;
  }
  return { max, inverse, output, va, norms };
}
