/**
 * What the drawn features would add to the gradients, group by group and to first order in
 * what the chain leaves out: with the rows Z, M and N of a drawn feature f in the sums of the passes,
 *
 *     (dS U)_i += phi_f(q_i) (G_i'M_f - (G_i.O_i) ZU_f) / D_i      (dS'L)_j += w_j phi_f(k_j) (v_j'N_f - N0_f)
 *     (P X A_V')_i += phi_f(q_i) ZVA_f / D_i                       (P'G B_V)_j += w_j phi_f(k_j) NGB_f
 *
 * with O_i and D_i as the chain has them. Such rows of P and dS do not add up to zero as differences
 * should; s_i = phi_f(q_i) (G_i'Zv_f - (G_i.O_i) Z1_f) / D_i and t_i = phi_f(q_i) Z1_f / D_i are what is missing, which
 * the chain's normalisation makes up by s_i and t_i times what a row of P makes of U, K and X. So these
 * are taken from centres y_i that are nearly that (conditionalMean.ts), and the little that is left is found on the
 * sampled rows (sampled.ts). Sums over keys have their centres taken in the second pass.
 */

import type { Real } from '../../arithmetic/arithmetic.js';
import type { QueryBlock } from '../../chain/queries/query-block.js';
import type { HeadRun } from '../../chain/run.js';
import { minus } from '../../head/affine.js';
import { BLOCK } from '../../head/block.js';
import type { Layout } from '../../head/layout.js';
import { DRAWN_GROUPS } from '../../head/plan.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { conditionalMeanRows, inputMeans } from './conditional-mean.js';
import { Grouped, type GroupSlots, OuterSums } from './group-sums.js';

/** Tensors 0, 3, 5, and the centres of the others. `state`: the key sums, those of the drawn features from row m on. */
export function drawnQuerySums(space: Workspace, at: Layout, run: HeadRun, state: Real) {
  const { arithmetic, head, plan } = space;
  const { drawnFeatures, m, conditionalMean } = plan;
  if (!drawnFeatures) return null;
  const { count } = drawnFeatures;
  const { d, dv, query, key, value } = head;
  const [p, rv] = [at.right, value.rank];
  const row = (f: number) => (m + f) * at.keyWidth;
  const factors = new Float64Array(p + 1);
  const rowOf = (f: number, a: number) => {
    const [from, sign] = a < dv ? [row(f) + at.atVU + a * p, 1] : [row(f) + at.atU, -1];
    for (let c = 0; c < p; c++) factors[c] = sign * state[from + c];
    // [U | 1]: the last column makes s_i.
    factors[p] = sign * state[a < dv ? row(f) + at.atV + a : row(f)];
    return factors;
  };
  const score = p > 0 ? new Grouped(space, count, p + 1, rowOf) : null;
  const sums = (width: number, columns: number) =>
    new OuterSums(space, width * DRAWN_GROUPS, columns);
  const ofQuery = sums(query.rank, query.effective.inputs);
  const ofKey = sums(key.rank, d);
  const ofL = sums(p, d);
  const ofValue = new OuterSums(space, rv > 0 ? count : 0, dv);
  const ofValueCentre = sums(rv, dv);
  const ofGB = sums(rv, d);
  const missing = rv > 0 ? groupedWeights(space, count, (f) => state[row(f)]) : null;
  const centres = conditionalMeanRows(space, BLOCK);
  const means = inputMeans(run);
  const scratch = (width: number) => arithmetic.array(BLOCK * DRAWN_GROUPS * width);
  const [s, t] = [scratch(1), scratch(1)];
  const part = scratch(Math.max(p, rv));
  const gradient = arithmetic.array(BLOCK * (dv + 1));
  const columns = (n: number, from: number, width: number, grouped: Real, to: Real) => {
    arithmetic.copyColumns(n * DRAWN_GROUPS, width, grouped, p + 1, from, to, width, 0);
    return to;
  };
  const times = (n: number, factor: Real, width: number, x: Real) => {
    arithmetic.outer(n, DRAWN_GROUPS, width, factor, x, part, DRAWN_GROUPS * width);
    return part;
  };
  return {
    /** phi (count, BLOCK): times the weights of the rows. */
    add(block: QueryBlock, phi: Real): void {
      const { rows } = block;
      const n = rows.count;
      centres.load(rows);
      if (score) {
        arithmetic.copyColumns(n, dv, block.gradient, dv, 0, gradient, dv + 1, 0);
        arithmetic.copyColumns(n, 1, block.shift, 1, 0, gradient, dv + 1, dv);
        const grouped = score.multiply(n, gradient, phi);
        arithmetic.takeCentres(n, DRAWN_GROUPS, p, centres.u, grouped);
        ofQuery.add(n, columns(n, 0, query.rank, grouped, part), rows.xq);
        ofKey.add(n, columns(n, query.rank, key.rank, grouped, part), rows.q);
        ofL.add(n, times(n, columns(n, p, 1, grouped, s), p, rows.l), centres.x);
      }
      if (missing) {
        arithmetic.transposedProduct(BLOCK, phi, missing, t);
        ofValue.addFeatures(phi, block.gradient);
        ofValueCentre.add(n, times(n, t, rv, centres.va), block.gradient);
        ofGB.add(n, times(n, t, rv, block.gradientB), centres.x);
      }
    },
    save(slot: Float64Array): void {
      slot.fill(0);
      const to = slotsOf(at, slot);
      ofQuery.addTo(to(0), 1, 0, query.rank, false);
      ofL.times(conditionalMean.key, d).addTo(to(1), -1, 0, query.rank, true);
      ofL
        .times(conditionalMean.inputsK, key.effective.inputs)
        .addTo(to(2), -1, query.rank, key.rank, false);
      ofKey.addTo(to(3), 1, 0, key.rank, true);
      ofGB.times(conditionalMean.inputsV, value.effective.inputs).addTo(to(4), -1, 0, rv, false);
      ofValueCentre.addTo(to(5), -1, 0, rv, true);
      const { total } = ofValue;
      eachDraw(rv > 0 ? count : 0, (f, group) => {
        const first = group * at.gradientTotal + at.gradientAt[5];
        for (let c = 0; c < rv; c++) {
          const z = state[row(f) + at.atVA + c] - means.va[c] * state[row(f)];
          for (let a = 0; a < dv; a++) {
            slot[first + a * rv + c] += z * total[f * dv + a];
          }
        }
      });
    },
  };
}

/** Tensors 1, 2, 4, added to what the second pass saved. `state`: the query sums, likewise. */
export function drawnKeySums(space: Workspace, at: Layout, run: HeadRun, state: Real) {
  const { arithmetic, head, plan } = space;
  const { drawnFeatures, m } = plan;
  if (!drawnFeatures) return null;
  const { count } = drawnFeatures;
  const { d, dv, query, key, value } = head;
  const [p, lv] = [at.left, value.rank];
  const { inputs } = value.effective;
  const row = (f: number) => (m + f) * at.queryWidth;
  const factors = new Float64Array(p);
  const rowOf = (f: number, a: number) => {
    const [from, sign] = a < dv ? [row(f) + at.atGL + a * p, 1] : [row(f), -1];
    for (let c = 0; c < p; c++) factors[c] = sign * state[from + c];
    return factors;
  };
  const score = p > 0 ? new Grouped(space, count, p, rowOf) : null;
  const ofQuery = new OuterSums(space, query.rank * DRAWN_GROUPS, d);
  const ofKey = new OuterSums(space, key.rank * DRAWN_GROUPS, key.effective.inputs);
  const ofValue = new OuterSums(space, lv > 0 ? count : 0, inputs);
  const values = arithmetic.array(BLOCK * (dv + 1)).fill(1);
  const part = arithmetic.array(BLOCK * DRAWN_GROUPS * p);
  const means = inputMeans(run);
  const [minusK, minusV] = [means.xk, means.xv].map((x) => minus(arithmetic, x));
  const columns = (n: number, from: number, width: number, grouped: Real) => {
    arithmetic.copyColumns(n * DRAWN_GROUPS, width, grouped, p, from, part, width, 0);
    return part;
  };
  return {
    /** phi (count, BLOCK): times the weights of the keys. Leaves X^K and X^V centred. */
    add({ count: n, v, k, xk, xv }: KeyRows, phi: Real): void {
      if (score) {
        arithmetic.copyColumns(n, dv, v, dv, 0, values, dv + 1, 0);
        const grouped = score.multiply(n, values, phi);
        ofQuery.add(n, columns(n, 0, query.rank, grouped), k);
        if (key.rank > 0) arithmetic.addRow(n, key.effective.inputs, minusK, xk);
        ofKey.add(n, columns(n, query.rank, key.rank, grouped), xk);
      }
      if (lv > 0) {
        arithmetic.addRow(n, inputs, minusV, xv);
        ofValue.addFeatures(phi, xv);
      }
    },
    save(slot: Float64Array): void {
      const to = slotsOf(at, slot);
      ofQuery.addTo(to(1), 1, 0, query.rank, true);
      ofKey.addTo(to(2), 1, 0, key.rank, false);
      const { total } = ofValue;
      eachDraw(lv > 0 ? count : 0, (f, group) => {
        const first = group * at.gradientTotal + at.gradientAt[4];
        for (let c = 0; c < lv; c++) {
          const g = state[row(f) + at.atGB + c];
          for (let x = 0; x < inputs; x++) {
            slot[first + c * inputs + x] += g * total[f * inputs + x];
          }
        }
      });
    },
  };
}

function slotsOf({ gradientAt, gradientTotal }: Layout, slot: Float64Array) {
  return (t: number): GroupSlots => ({ slot, offset: gradientAt[t], stride: gradientTotal });
}

/** (count, groups): the total of each draw, in the column of its group. */
function groupedWeights({ arithmetic }: Workspace, count: number, total: (f: number) => number) {
  const matrix = new Float64Array(count * DRAWN_GROUPS);
  eachDraw(count, (f, group) => {
    matrix[f * DRAWN_GROUPS + group] = total(f);
  });
  return arithmetic.pack(count, DRAWN_GROUPS, matrix);
}

function eachDraw(count: number, visit: (f: number, group: number) => void): void {
  for (let f = 0; f < count; f++) visit(f, Math.floor((f * DRAWN_GROUPS) / count));
}
