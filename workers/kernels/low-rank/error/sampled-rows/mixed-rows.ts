/**
 * Errors of the sampled rows where features are drawn: P~ and dS~ have all features, so they are the exact rows over the row sums of
 * the chain, with its O and G, and what is left is what the mixtures do not tell. All of it is linear in rows of P~: with
 * rho_i = sum_j P~_ij, t_ij = G_i.v_j and s_i = sum_j P~_ij t_ij / rho_i, and with t~ and s~ of the chain,
 *
 *     E_S = sum_j (dS_ij - dS~_ij) x_j = sum_j P~_ij (t_ij / rho_i - t~_ij) x_j - (s_i / rho_i - s~_i) sum_j P~_ij x_j
 *     E_P = sum_j (P_ij - P~_ij) y_j = (1 / rho_i - 1) sum_j P~_ij y_j
 *
 * So one pass over the keys does, which knows neither the largest score of a row nor its sum.
 */
import type { Checkpoint } from '../../../../job.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { TermSums } from '../../chain/rounding.js';
import { addSlots, EMPTY, recordWidth } from '../../chain/run.js';
import { minus } from '../../head/affine.js';
import { BLOCK } from '../../head/block.js';
import { layout } from '../../head/layout.js';
import { keyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { inputMeans } from '../drawn-features/conditional-mean.js';
import {
  errorColumns,
  RowSums,
  scoreColumns,
  slotWidths,
  valueCentre,
  valueColumns,
} from './error-columns.js';
import { type SampledGradient, type SampledRun, sampledGradient } from './sampled-run.js';

/** Sums over the keys of a segment of P~ t x, of P~ t~ x where that is another, and of P~ [x | y]. */
export function mixedRowPass(space: Workspace, sampled: SampledRun, s: number): void {
  const { arithmetic, head } = space;
  const { run } = sampled;
  const { d, dv } = head;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const { score, value } = errorColumns(run);
  const state = sampledGradient(space, sampled);
  const { rows } = state;
  const n = rows.count;
  const terms = new TermSums(space, n, state.gradient);
  const gradients = head.kind === 'target' ? [state.gradient, state.approximate] : [state.gradient];
  const products = gradients.map(() => new RowSums(space, n, score));
  const sums = new RowSums(space, n, score + value);
  const keys = keyRows(space, BLOCK);
  const keysTransposed = arithmetic.array(d * BLOCK);
  const valuesTransposed = arithmetic.array(dv * BLOCK);
  const [p, t] = [0, 1].map(() => arithmetic.array(n * BLOCK)) as [Real, Real];
  const [total, factor, none] = [0, 1, 2].map(() => arithmetic.array(n)) as [Real, Real, Real];
  const max = arithmetic.array(n).fill(EMPTY);
  const ones = arithmetic.array(n).fill(1);
  const ofScore = arithmetic.array(BLOCK * score);
  const ofValue = arithmetic.array(BLOCK * value);
  const columns = arithmetic.array(BLOCK * (score + value));
  const means = inputMeans(run);
  const minusCentre = minus(arithmetic, means.xk);
  const centreValues = valueCentre(space, means);
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    keys.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    const { count } = keys;
    arithmetic.transpose(count, d, keys.k, keysTransposed);
    arithmetic.transpose(count, dv, keys.v, valuesTransposed);
    arithmetic.gemm(n, count, d, rows.scaled, keysTransposed, p);
    arithmetic.softmax(n, count, p, max, total, factor);
    for (const all of [...products, sums, terms]) all.scale(factor);
    // As the chain has them: others centre them.
    terms.load(keys);
    terms.add(0, n, p);
    scoreColumns(space, at, keys, score, minusCentre, ofScore);
    centreValues(keys);
    valueColumns(space, keys, value, ofValue);
    arithmetic.copyColumns(count, score, ofScore, score, 0, columns, score + value, 0);
    arithmetic.copyColumns(count, value, ofValue, value, 0, columns, score + value, score);
    sums.add(count, p, columns);
    gradients.forEach((gradient, k) => {
      arithmetic.gemm(n, count, dv, gradient, valuesTransposed, t);
      if (k === 0) terms.products(p, ones, t, valuesTransposed);
      arithmetic.scoreGradient(n, count, p, t, ones, none);
      products[k].add(count, t, ofScore);
    });
  }
  const scale = chainScales(space, sampled).map((log, i) => Math.exp(max[i] - log));
  for (const all of [...products, sums]) all.scale(scale);
  const { errors } = sampled;
  products.forEach((one, k) => {
    one.save(errors.score[s], slotWidths(run).score, k * score);
  });
  sums.save(errors.value[s], score + value, 0);
  terms.save(sampled.terms[s], (i) => scale[i]);
}

/** Logarithms of what exp(score) is over in P~; infinite for rows that the chain has exactly, which have no error. */
function chainScales({ head, isOutlierQuery }: Workspace, { run }: SampledRun): Float64Array {
  return Float64Array.from(run.sampled, (row, i) => {
    const [, max, total] = run.sampledRows.subarray(i * recordWidth(head));
    return isOutlierQuery(row) || !(total > 0) ? Number.POSITIVE_INFINITY : max + Math.log(total);
  });
}

/** rho of the sampled rows; 1 where it is nothing, as of rows that are exact in the chain. */
export function rowSums(checkpoint: Checkpoint, { run, errors }: SampledRun): Float64Array {
  const width = slotWidths(run).value;
  const sums = allOf(checkpoint, errors.value);
  return Float64Array.from(run.sampled, (_, i) => sums[(i + 1) * width - 1] || 1);
}

/** E_S (n, score) of all segments. */
export function mixedScoreErrors(
  checkpoint: Checkpoint,
  sampled: SampledRun,
  { approximateShift }: SampledGradient,
): Float64Array {
  const { run, errors } = sampled;
  const { score } = errorColumns(run);
  const { score: stride, value: width } = slotWidths(run);
  const rho = rowSums(checkpoint, sampled);
  const [products, sums] = [errors.score, errors.value].map((slots) => allOf(checkpoint, slots));
  return Float64Array.from({ length: rho.length * score }, (_, k) => {
    const [i, c] = [Math.floor(k / score), k % score];
    const ofRow = products.subarray(i * stride, (i + 1) * stride);
    const shift = ofRow[score - 1] / rho[i];
    const chain = ofRow[stride - score + c];
    const ofShift = (shift / rho[i] - approximateShift[i]) * sums[i * width + c];
    return ofRow[c] / rho[i] - chain - ofShift;
  });
}

/** [E_P | P~ ...] (n, 2 value) of all segments. */
export function mixedValueErrors(checkpoint: Checkpoint, sampled: SampledRun): Float64Array {
  const { run, errors } = sampled;
  const { score, value } = errorColumns(run);
  const rho = rowSums(checkpoint, sampled);
  const sums = allOf(checkpoint, errors.value);
  return Float64Array.from({ length: rho.length * 2 * value }, (_, k) => {
    const [i, c] = [Math.floor(k / (2 * value)), k % (2 * value)];
    const sum = sums[i * (score + value) + score + (c % value)];
    return c < value ? (1 / rho[i] - 1) * sum : sum;
  });
}

function allOf(checkpoint: Checkpoint, slots: readonly Float64Array[]): Float64Array {
  const sum = new Float64Array(slots[0].length);
  addSlots(checkpoint, slots, 0, slots.length, sum);
  return sum;
}
