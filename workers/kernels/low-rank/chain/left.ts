/**
 * Third pass, over the keys of a segment: the left products from the query sums N,
 *
 *     (dS'L)_j = w_j ( v_j'[phi_j'N] - phi_j' sum_i phi_i (G_i.O_i) l_i' / D_i )
 *     (P'G B_V)_j = w_j phi_j' sum_i phi_i (G_i B_V)' / D_i
 *
 * joined with the exact rows of the outlier queries, and with them the gradients that are sums over keys.
 */
import type { Real } from '../arithmetic/arithmetic.js';
import { BLOCK } from '../head/block.js';
import { fullWidth } from '../head/head.js';
import { type Layout, layout } from '../head/layout.js';
import { featureRows } from '../head/plan.js';
import { type KeyRows, keyRows } from '../head/rows/key-rows.js';
import { queryRows } from '../head/rows/query-rows.js';
import { type WeightedFeatures, weightedFeatures } from '../head/rows/weighted-features.js';
import type { Workspace } from '../head/workspace.js';
import { fullSums } from './full.js';
import { outlierQueries } from './queries/outlier-queries.js';
import type { OpenDrawn } from './queries/queries.js';
import { queryColumns, valueFactor } from './queries/query-products.js';
import { addSlots, type HeadRun } from './run.js';
import { type WideSums, wideSums } from './wide.js';

export function leftPass(
  space: Workspace,
  run: HeadRun,
  s: number,
  openDrawn: OpenDrawn<KeyRows>,
): void {
  const { arithmetic, head, plan } = space;
  const at = layout(head);
  const { m } = plan;
  const all = featureRows(plan);
  const { from, to } = run.segments[s];
  const width = at.left + at.lv;
  const rows = keyRows(space, BLOCK);
  const state = arithmetic.array(run.querySums[s].length);
  const wideState = state.subarray(all * at.queryWidth);
  const wide = wideSums(arithmetic, head, plan.hyperbolicCross.left);
  if (head.causal)
    addSlots(arithmetic.checkpoint, run.querySums, s + 1, run.segments.length, state);
  else state.set(run.queryTotal);
  const packedState = arithmetic.pack(m, at.queryWidth, state);
  const phi = arithmetic.array(all * BLOCK);
  const features = weightedFeatures(space);
  const products = arithmetic.array(BLOCK * at.queryWidth);
  const left = arithmetic.array(BLOCK * at.left);
  const leftValue = arithmetic.array(BLOCK * at.lv);
  const gradients = gradientSums(space, at, run);
  const drawnFeatures = openDrawn(space, at, run, state);
  const outliers = plan.outlierQueries.length > 0 ? outlierQueries(space, at, run) : null;
  const earlier = head.causal ? backwardState(space, at, run, features, phi, state, wide) : null;
  const columns = outlierColumns(space, at, run);
  const blocks: number[] = [];
  for (let start = from; start < to; start += BLOCK) blocks.push(start);
  // A key is seen by later queries only: under a mask the sums grow from the last block to the first.
  if (head.causal) blocks.reverse();
  for (const start of blocks) {
    const count = Math.min(BLOCK, to - start, head.keyLength - start);
    if (count > 0) {
      rows.load((r) => start + r, count);
      features(rows.z, count, (r) => Math.exp(rows.logWeight[r]), phi);
      arithmetic.transposedProduct(BLOCK, phi, packedState, products);
      wide?.multiply(phi, rows.v, wideState, left);
      lowRankLeft(space, at, rows, products, left, leftValue);
      for (let r = 0; (columns.size > 0 || run.causal) && r < count; r++) {
        const outlier = columns.get(start + r);
        for (let c = 0; c < at.left; c++) {
          if (outlier) left[r * at.left + c] = outlier[c];
          if (run.causal) left[r * at.left + c] += run.causal.left[(start + r) * width + c];
        }
        for (let c = 0; c < at.lv; c++) {
          const i = r * at.lv + c;
          if (outlier) leftValue[i] = outlier[at.left + c];
          if (run.causal) leftValue[i] += run.causal.left[(start + r) * width + at.left + c];
        }
      }
      outliers?.advance(rows, left, leftValue);
      gradients.add(rows, left, leftValue);
      drawnFeatures?.add(rows, phi.subarray(m * BLOCK));
    }
    if (earlier) {
      earlier.advance(start);
      arithmetic.repack(packedState, state);
    }
  }
  gradients.save(run.keyGradients[s]);
  drawnFeatures?.save(run.drawnGradients[s]);
  outliers?.save(run.outlierRight[s], run.outlierTerms[s]);
}

/** The low-rank part of dS'L and P'(G B_V); at full width `left` holds the first term of dS'L. */
function lowRankLeft(
  space: Workspace,
  at: Layout,
  rows: KeyRows,
  products: Real,
  left: Real,
  leftValue: Real,
): void {
  const { arithmetic, head } = space;
  const { left: n, lv, queryWidth: width } = at;
  if (n > 0 && !fullWidth(head).scores) {
    left.fill(0);
    const ofGL = products.subarray(at.atGL);
    arithmetic.contract(rows.count, head.dv, n, rows.v, ofGL, width, left);
  }
  // w_j is in the features already.
  for (let r = 0; r < rows.count; r++) {
    const from = r * width;
    for (let c = 0; c < n; c++) left[r * n + c] -= products[from + c];
  }
  arithmetic.copyColumns(rows.count, lv, products, width, at.atGB, leftValue, lv, 0);
}

/** Left products of the outlier keys, from the second pass. */
function outlierColumns(space: Workspace, at: Layout, run: HeadRun): Map<number, Float64Array> {
  const width = at.left + at.lv;
  const columns = new Map<number, Float64Array>();
  space.plan.outlierKeys.forEach((key, j) => {
    columns.set(key, run.joinedLeft.subarray(j * width, (j + 1) * width));
  });
  return columns;
}

/** Under a causal mask: the queries of a block join the sums that earlier keys see. */
function backwardState(
  space: Workspace,
  at: Layout,
  run: HeadRun,
  features: WeightedFeatures,
  phi: Real,
  state: Real,
  wide: WideSums | null,
) {
  const { arithmetic, head, plan } = space;
  const { dv } = head;
  const memory = run.causal!;
  const rows = queryRows(space, BLOCK);
  const gradient = arithmetic.array(BLOCK * dv);
  const gradientB = arithmetic.array(BLOCK * at.lv);
  const shift = arithmetic.array(BLOCK);
  const columns = arithmetic.array(BLOCK * at.queryWidth);
  const toGB = valueFactor(space, at);
  const wideState = state.subarray(plan.m * at.queryWidth);
  return {
    advance(start: number): void {
      const count = Math.min(BLOCK, head.queryLength - start);
      if (count <= 0) return;
      rows.load((r) => start + r, count);
      for (let r = 0; r < count; r++) {
        shift[r] = memory.rows[2 * (start + r) + 1];
        for (let a = 0; a < dv; a++) {
          const given = rows.objective[r * dv + a];
          gradient[r * dv + a] =
            head.kind === 'target'
              ? memory.output[(start + r) * dv + a] + plan.centreV[a] - given
              : given;
        }
      }
      toGB(count, gradient, gradientB);
      features(rows.x, count, (r) => memory.rows[2 * (start + r)], phi);
      queryColumns(space, at, { rows, gradient, gradientB, shift }, columns);
      arithmetic.gemm(plan.m, at.queryWidth, BLOCK, phi, columns, state, true);
      wide?.add(phi, gradient, rows.l, wideState);
    },
  };
}

/**
 * d lora_B_Q += K'(dS'X^Q A_Q'), d lora_A_K += (dS'Q B_K)'X^K, d lora_A_V += (P'G B_V)'X^V. At full width both
 * gradients of the keys come from dS'Q, and both of the values from P'G.
 */
function gradientSums(space: Workspace, at: Layout, run: HeadRun) {
  const { arithmetic, head } = space;
  const { d, query, key, value } = head;
  const full = fullWidth(head);
  const keys = full.key ? fullSums(space, at, 'key', run.inputs?.key ?? null) : null;
  const values = full.value ? fullSums(space, at, 'value', run.inputs?.value ?? null) : null;
  const sizes = at.gradientSizes;
  const sums = [1, 2, 4].map((t) => arithmetic.array(sizes[t]));
  const totals = [1, 2, 4].map((t) => arithmetic.sums(sizes[t]));
  const thin = arithmetic.array(BLOCK * Math.max(query.rank, key.rank, 1));
  const thinQuery = !full.scores && query.rank > 0;
  const thinKey = !full.scores && key.rank > 0;
  const width = at.left;
  return {
    add(rows: KeyRows, left: Real, leftValue: Real): void {
      const n = rows.count;
      keys?.add({ ...rows, x: rows.xk }, left);
      values?.add({ ...rows, x: rows.xv, low: rows.va, rotation: null }, leftValue);
      if (thinQuery) {
        arithmetic.copyColumns(n, query.rank, left, width, 0, thin, query.rank, 0);
        arithmetic.transposedGemm(d, query.rank, n, rows.k, thin, sums[0], true);
        arithmetic.fold(sizes[1], sums[0], totals[0]);
      }
      if (thinKey) {
        arithmetic.copyColumns(n, key.rank, left, width, query.rank, thin, key.rank, 0);
        arithmetic.transposedGemm(key.rank, key.effective.inputs, n, thin, rows.xk, sums[1], true);
        arithmetic.fold(sizes[2], sums[1], totals[1]);
      }
      if (at.rv > 0) {
        arithmetic.transposedGemm(
          at.rv,
          value.effective.inputs,
          n,
          leftValue,
          rows.xv,
          sums[2],
          true,
        );
        arithmetic.fold(sizes[4], sums[2], totals[2]);
      }
    },
    save(slot: Float64Array): void {
      [1, 2, 4].forEach((t, i) => {
        slot.set(totals[i].subarray(0, sizes[t]), at.gradientAt[t]);
      });
      keys?.save(slot);
      values?.save(slot);
    },
  };
}
