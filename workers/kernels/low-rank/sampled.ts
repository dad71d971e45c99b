/**
 * The error of sampled rows, row by row of P, in two passes over the keys.
 *
 * Every weight gradient is a sum over query rows of (left factor) (x) (row product). For the sampled
 * rows both the exact and the approximate row of P are formed over all keys, and with them
 *
 *     E_S = (dS - dS~) [U | K - centre | X^K - centre],   E_P = (P - P~) [X^V A_V' | X^V]
 *
 * and P~ [X^V A_V' | X^V], which the target objective needs because its G depends on O. At full width the
 * rows of dS U themselves are formed in place of E_S, to be compared with those of the chain, and
 * sampled-keys.ts does what is of the keys.
 */

import type { Lease } from '../../../src/tensor/shared-memory.js';
import type { Cancelled } from '../job.js';
import type { Real } from './arithmetic.js';
import { evaluateFeatures, featureBlock } from './evaluate.js';
import { fullWidth, type Head } from './head.js';
import { exactRows, type MergedRows, maskScores, mergeRows } from './keys.js';
import type { Layout } from './layout.js';
import { layout } from './layout.js';
import { BLOCK, type KeyRows, keyRows, type QueryRows, queryRows, type Workspace } from './rows.js';
import { checkpoint, type HeadRun, leaseSlots, recordWidth } from './run.js';

/** Shared memory of the estimate of one head: one slot per segment. */
export interface SampledRun {
  readonly run: HeadRun;
  readonly exact: readonly Float64Array[];
  /** (n, scoreColumns), (n, 2 valueColumns): E_S, [E_P | P~ ...]. */
  readonly scoreErrors: readonly Float64Array[];
  readonly valueErrors: readonly Float64Array[];
  /** When the keys' adapter has its gradients from dK at full width. */
  readonly keyErrors: KeyErrors | null;
}

/** By sampled row, errors of d lora_A_K (n, r inputs) and d lora_B_K (n, d r), without s beta. */
export interface KeyErrors {
  /** Of all heads of the batch item together. */
  readonly lowA: Float32Array;
  readonly lowB: Float32Array;
}

/** Widths of E_S and E_P. */
export function errorColumns(run: HeadRun): { score: number; value: number } {
  const { query, key, value, d } = run.head;
  const full = fullWidth(run.head);
  const p = query.rank + key.rank;
  const thin = p + (query.rank > 0 ? d : 0) + (key.rank > 0 ? key.effective.inputs : 0);
  return {
    score: full.scores ? layout(run.head).right : thin,
    value: value.rank > 0 ? value.rank + value.effective.inputs : 0,
  };
}

/** Whether the keys' adapter has its gradients from dK at full width. */
function hasKeyErrors(head: Head): boolean {
  return fullWidth(head).key && head.key.rank > 0;
}

/** Zeroed errors of d lora_A_K of n sampled rows of a batch item; empty where estimates do not need them. */
export function openKeyErrors(head: Head, n: number): Float32Array {
  const size = hasKeyErrors(head) ? n * head.key.rank * head.key.effective.inputs : 0;
  return new Float32Array(new SharedArrayBuffer(4 * size));
}

/** @param lowA openKeyErrors of the batch item. */
export function openSampledRun(run: HeadRun, lowA: Float32Array, memory: Lease): SampledRun {
  const n = run.sampled.length;
  const { score, value } = errorColumns(run);
  const { key, d } = run.head;
  const slots = (width: number) => leaseSlots(memory, run.segments.length, n * width);
  return {
    run,
    exact: slots(2 + run.head.dv + run.head.value.rank),
    scoreErrors: slots(score),
    valueErrors: slots(2 * value),
    keyErrors: hasKeyErrors(run.head)
      ? { lowA, lowB: new Float32Array(new SharedArrayBuffer(4 * n * d * key.rank)) }
      : null,
  };
}

function loadSampled(space: Workspace, run: HeadRun): QueryRows {
  const rows = queryRows(space, run.sampled.length);
  rows.load((r) => run.sampled[r], run.sampled.length);
  return rows;
}

/** First pass: the exact softmax of the sampled rows over the keys of a segment. */
export function sampledExactPass(
  space: Workspace,
  sampled: SampledRun,
  s: number,
  cancelled: Cancelled,
): void {
  const { run } = sampled;
  const { from, to } = run.segments[s];
  const rows = exactRows(space, loadSampled(space, run), true);
  const keys = keyRows(space, BLOCK);
  for (let start = from; start < Math.min(to, space.head.keyLength); start += BLOCK) {
    checkpoint(cancelled);
    keys.load((r) => start + r, Math.min(BLOCK, to - start, space.head.keyLength - start));
    rows.advance(keys);
  }
  rows.save(sampled.exact[s]);
}

/** Both gradients of the sampled rows: G, G.(O - centre) exact and as the chain had them. */
export interface SampledGradient extends MergedRows {
  readonly rows: QueryRows;
  readonly gradient: Real;
  readonly shift: Real;
  readonly approximate: Real;
  readonly approximateShift: Real;
}

export function sampledGradient(space: Workspace, sampled: SampledRun): SampledGradient {
  const { arithmetic, head, plan } = space;
  const { run } = sampled;
  const { dv } = head;
  const rows = loadSampled(space, run);
  const n = rows.count;
  const merged = mergeRows(space, sampled.exact, n);
  const side = (output: (i: number, a: number) => number) => {
    const gradient = arithmetic.array(n * dv);
    const shift = arithmetic.array(n);
    for (let i = 0; i < n; i++) {
      let dot = 0;
      for (let a = 0; a < dv; a++) {
        const o = output(i, a);
        const given = rows.objective[i * dv + a];
        const g = head.kind === 'target' ? o + plan.centreV[a] - given : given;
        gradient[i * dv + a] = g;
        dot += g * o;
      }
      shift[i] = dot;
    }
    return { gradient, shift };
  };
  const exact = side((i, a) => merged.output[i * dv + a]);
  // Outlier rows are exact in the chain too, but it is not the pass over the queries that makes them.
  const chain = side((i, a) =>
    space.isOutlierQuery(run.sampled[i])
      ? merged.output[i * dv + a]
      : run.sampledRows[i * recordWidth(head) + 3 + a],
  );
  return {
    rows,
    ...merged,
    ...exact,
    approximate: chain.gradient,
    approximateShift: chain.shift,
  };
}

/** Second pass: the differences of the sampled rows, multiplied out over the keys of a segment. */
export function sampledErrorPass(
  space: Workspace,
  sampled: SampledRun,
  s: number,
  cancelled: Cancelled,
): void {
  const { arithmetic, head, plan } = space;
  const { run } = sampled;
  const { d, dv } = head;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const widths = errorColumns(run);
  const state = sampledGradient(space, sampled);
  const { rows, max, inverse } = state;
  const n = rows.count;
  const keys = keyRows(space, BLOCK);
  const turned = rowFeatures(space, rows, run);
  const phi = arithmetic.array(plan.m * BLOCK);
  const keysTransposed = arithmetic.array(d * BLOCK);
  const valuesTransposed = arithmetic.array(dv * BLOCK);
  const exact = arithmetic.array(n * BLOCK);
  const approximate = arithmetic.array(n * BLOCK);
  const t = arithmetic.array(n * BLOCK);
  const chain = arithmetic.array(n * BLOCK);
  const total = arithmetic.array(n);
  const factor = arithmetic.array(n);
  const scoreRight = arithmetic.array(BLOCK * widths.score);
  const valueRight = arithmetic.array(BLOCK * widths.value);
  const score = arithmetic.array(n * widths.score);
  const value = arithmetic.array(n * widths.value);
  const valueApproximate = arithmetic.array(n * widths.value);
  const [scoreSum, valueSum, approximateSum] = [score, value, valueApproximate].map((x) =>
    arithmetic.sums(x.length),
  );
  const ones = arithmetic.array(n).fill(1);
  const minusCentre = arithmetic.array(plan.centreXK.length);
  minusCentre.set(plan.centreXK.map((x) => -x));
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    checkpoint(cancelled);
    keys.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    const { count } = keys;
    arithmetic.transpose(count, d, keys.k, keysTransposed);
    arithmetic.transpose(count, dv, keys.v, valuesTransposed);
    arithmetic.gemm(n, count, d, rows.scaled, keysTransposed, exact);
    maskScores(head.causal, rows, keys.index, count, exact);
    arithmetic.softmax(n, count, exact, max, total, factor);
    keyFeatures(space, keys, phi);
    arithmetic.gemm(n, BLOCK, plan.m, turned, phi, approximate);
    approximateRows(space, run, state, keys, exact, approximate);
    const size = n * count;
    arithmetic.gemm(n, count, dv, state.gradient, valuesTransposed, t);
    if (head.kind === 'target') {
      arithmetic.gemm(n, count, dv, state.approximate, valuesTransposed, chain);
    } else {
      arithmetic.combine(size, 1, t, 0, chain);
    }
    arithmetic.scoreGradient(n, count, approximate, chain, ones, state.approximateShift);
    arithmetic.scoreGradient(n, count, exact, t, inverse, state.shift);
    if (!fullWidth(head).scores) arithmetic.combine(size, -1, chain, 1, t);
    arithmetic.combine(size, -1, approximate, 1, exact);
    scoreColumns(space, at, keys, widths.score, minusCentre, scoreRight);
    valueColumns(space, keys, widths.value, valueRight);
    arithmetic.gemm(n, widths.score, count, t, scoreRight, score, true);
    arithmetic.gemm(n, widths.value, count, exact, valueRight, value, true);
    if (head.kind === 'target') {
      arithmetic.gemm(n, widths.value, count, approximate, valueRight, valueApproximate, true);
      arithmetic.fold(valueApproximate.length, valueApproximate, approximateSum);
    }
    arithmetic.fold(score.length, score, scoreSum);
    arithmetic.fold(value.length, value, valueSum);
  }
  sampled.scoreErrors[s].set(scoreSum);
  for (let i = 0; i < n; i++) {
    const row = 2 * i * widths.value;
    const part = (x: Float64Array) => x.subarray(i * widths.value, (i + 1) * widths.value);
    sampled.valueErrors[s].set(part(valueSum), row);
    sampled.valueErrors[s].set(part(approximateSum), row + widths.value);
  }
}

/** phi (n, m) of the sampled rows, times the low-rank scale over the row sum that the chain had. */
export function rowFeatures(
  space: Workspace,
  rows: QueryRows,
  run: Pick<HeadRun, 'sampledRows'>,
): Real {
  const { arithmetic, head, plan } = space;
  const n = rows.count;
  const out = arithmetic.array(n * plan.m);
  const mark = arithmetic.mark();
  const block = featureBlock(arithmetic, plan.features, 4 * Math.ceil(n / 4), plan.m);
  evaluateFeatures(arithmetic, rows.x, head.d, block);
  for (let i = 0; i < n; i++) {
    const [logScale, max, total] = run.sampledRows.subarray(i * recordWidth(head));
    const weight = Math.exp(logScale - max) / total;
    for (let f = 0; f < plan.m; f++) out[i * plan.m + f] = weight * block.phi[f * block.rows + i];
  }
  arithmetic.release(mark);
  return out;
}

/** w phi (m, BLOCK) of a block of keys. */
export function keyFeatures(space: Workspace, keys: KeyRows, phi: Real): void {
  const { arithmetic, head, plan, features, weights } = space;
  evaluateFeatures(arithmetic, keys.z, head.d, features);
  weights.fill(0);
  for (let r = 0; r < keys.count; r++) weights[r] = Math.exp(keys.logWeight[r]);
  arithmetic.weighFeatures(plan.m, BLOCK, features.phi, weights, phi);
}

/**
 * Turns the low-rank block approximate (n, BLOCK) into rows of P~ (n, count): exact where the chain was
 * exact (outlier rows and columns, diagonal blocks), with the row sums of the chain.
 */
export function approximateRows(
  space: Workspace,
  { sampledRows }: Pick<HeadRun, 'sampledRows'>,
  state: SampledGradient,
  keys: KeyRows,
  exact: Real,
  approximate: Real,
): void {
  const { head } = space;
  const { rows, max, inverse } = state;
  const { count } = keys;
  // In place: the source is BLOCK wide, the result count wide, so nothing is read after it is written.
  for (let i = 1; count < BLOCK && i < rows.count; i++) {
    approximate.copyWithin(i * count, i * BLOCK, i * BLOCK + count);
  }
  const columns: number[] = [];
  for (let j = 0; j < count; j++) if (keys.logWeight[j] === -Infinity) columns.push(j);
  for (let i = 0; i < rows.count; i++) {
    const from = i * recordWidth(head);
    const outlier = sampledRows[from] === -Infinity;
    const row = i * count;
    const ratio = outlier
      ? inverse[i]
      : Math.exp(max[i] - sampledRows[from + 1]) / sampledRows[from + 2];
    // Under a causal mask the keys of the diagonal block are exact, and those behind it hidden.
    const index = rows.index[i];
    const firstOfBlock = index - (index % BLOCK) - keys.index[0];
    const exactFrom = outlier ? 0 : head.causal ? Math.max(0, firstOfBlock) : count;
    for (const j of columns) approximate[row + j] = ratio * exact[row + j];
    for (let j = exactFrom; j < count; j++) approximate[row + j] = ratio * exact[row + j];
  }
}

/** [u | K - centre | X^K - centre], as far as there are adapters for it; u alone at full width. */
function scoreColumns(
  space: Workspace,
  at: Layout,
  keys: KeyRows,
  width: number,
  minusCentre: Real,
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
    arithmetic.addRow(count, inputs, minusCentre, keys.xk);
    arithmetic.copyColumns(count, inputs, keys.xk, inputs, 0, right, width, to);
  }
}

/** [X^V A_V' | X^V]. */
function valueColumns(space: Workspace, keys: KeyRows, width: number, right: Real): void {
  const { arithmetic, head } = space;
  const { rank, effective } = head.value;
  if (width === 0) return;
  const { inputs } = effective;
  arithmetic.copyColumns(keys.count, rank, keys.va, rank, 0, right, width, 0);
  arithmetic.copyColumns(keys.count, inputs, keys.xv, inputs, 0, right, width, rank);
}
