/**
 * The error of sampled rows, row by row of P, in two passes over the keys.
 *
 * Every weight gradient is a sum over query rows of (left factor) (x) (row product). For the sampled
 * rows both the exact and the approximate row of P are formed over all keys, and with them
 *
 *     E_S = (dS - dS~) [U | K - centre | X^K - centre],   E_P = (P - P~) [X^V A_V' | X^V]
 *
 * and P~ [X^V A_V' | X^V], which the target objective needs because its G depends on O. Where features are
 * drawn (draw.ts), also the same with the exact row over the chain's row sum in the place of P~, and dS~
 * likewise with the chain's O and G: what the chain's normalisation does. At full width the
 * rows of dS U themselves are formed in place of E_S, to be compared with those of the chain, and
 * sampled-keys.ts does what is of the keys.
 */

import { type Cancelled, checkpoint } from '../../../../job.js';
import type { Lease } from '../../../../tensor/shared-memory.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { exactRows, type MergedRows, maskScores, mergeRows } from '../../chain/keys.js';
import { type HeadRun, leaseSlots, recordWidth } from '../../chain/run.js';
import { evaluateFeatures, featureBlock } from '../../features/evaluate.js';
import { minus } from '../../head/affine.js';
import { fullWidth, type Head, wantsScores } from '../../head/head.js';
import { layout } from '../../head/layout.js';
import {
  BLOCK,
  type KeyRows,
  keyRows,
  type QueryRows,
  queryRows,
  type Workspace,
} from '../../head/rows.js';
import { inputMeans } from '../drawn-features/conditional-mean.js';
import {
  ErrorSums,
  errorColumns,
  type RowErrors,
  scoreColumns,
  valueCentre,
  valueColumns,
} from './error-columns.js';
import { SQUARES, TermSums } from './rounding.js';

/** Shared memory of the estimate of one head: one slot per segment. */
export interface SampledRun {
  readonly run: HeadRun;
  readonly exact: readonly Float64Array[];
  readonly errors: RowErrors;
  /** Where features are drawn: what is left of them when the exact rows are normalised as the chain's are. */
  readonly normalisation: RowErrors | null;
  /** What the exact rows carry: see TermSums. */
  readonly terms: readonly Float64Array[];
  /** When the keys' adapter has its gradients from dK at full width. */
  readonly keyErrors: KeyErrors | null;
}

/** By sampled row, errors of d lora_A_K (n, r inputs) and d lora_B_K (n, d r), without s beta. */
export interface KeyErrors {
  /** Of all heads of the batch item together. */
  readonly lowA: Float32Array;
  readonly lowB: Float32Array;
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
    errors: { score: slots(score), value: slots(2 * value) },
    terms: slots(SQUARES),
    normalisation: run.plan.drawnFeatures ? { score: slots(score), value: slots(2 * value) } : null,
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
  const { head } = space;
  // Who compares gradients forms these rows again, relative to their maxima.
  const maxima = wantsScores(head) || head.value.rank > 0;
  const rows = exactRows(space, loadSampled(space, run), maxima);
  const keys = keyRows(space, BLOCK, 'exact');
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
  const { d, dv, key } = head;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const widths = errorColumns(run);
  const state = sampledGradient(space, sampled);
  const { rows, max, inverse } = state;
  const n = rows.count;
  const keys = keyRows(space, BLOCK);
  const chainRow = chainRows(space, run, state);
  const errors = new ErrorSums(space, n);
  const terms = new TermSums(space, n);
  const normalisation = sampled.normalisation && new Normalisation(space, run, state);
  const keysTransposed = arithmetic.array(d * BLOCK);
  const valuesTransposed = arithmetic.array(dv * BLOCK);
  const exact = arithmetic.array(n * BLOCK);
  const approximate = arithmetic.array(n * BLOCK);
  const t = arithmetic.array(n * BLOCK);
  const chain = arithmetic.array(n * BLOCK);
  const total = arithmetic.array(n);
  const factor = arithmetic.array(n);
  const columns = {
    score: arithmetic.array(BLOCK * widths.score),
    value: arithmetic.array(BLOCK * widths.value),
  };
  const ones = arithmetic.array(n).fill(1);
  const means = plan.drawnFeatures && inputMeans(run);
  const minusCentre = minus(arithmetic, means?.xk ?? new Float64Array(key.effective.inputs));
  const centreValues = means && valueCentre(space, means);
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    checkpoint(cancelled);
    keys.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    const { count } = keys;
    arithmetic.transpose(count, d, keys.k, keysTransposed);
    arithmetic.transpose(count, dv, keys.v, valuesTransposed);
    arithmetic.gemm(n, count, d, rows.scaled, keysTransposed, exact);
    maskScores(head.causal, rows, keys.index, count, exact);
    arithmetic.softmax(n, count, exact, max, total, factor);
    chainRow(keys, exact, approximate);
    const size = n * count;
    arithmetic.gemm(n, count, dv, state.gradient, valuesTransposed, t);
    if (head.kind === 'target') {
      arithmetic.gemm(n, count, dv, state.approximate, valuesTransposed, chain);
    } else {
      arithmetic.combine(size, 1, t, 0, chain);
    }
    scoreColumns(space, at, keys, widths.score, minusCentre, columns.score);
    centreValues?.(keys);
    valueColumns(space, keys, widths.value, columns.value);
    normalisation?.load(count, exact, chain);
    arithmetic.scoreGradient(n, count, approximate, chain, ones, state.approximateShift);
    arithmetic.scoreGradient(n, count, exact, t, inverse, state.shift);
    normalisation?.add(count, exact, t, columns);
    terms.add(keys, exact);
    if (!fullWidth(head).scores) arithmetic.combine(size, -1, chain, 1, t);
    arithmetic.combine(size, -1, approximate, 1, exact);
    errors.add(count, t, exact, approximate, columns);
  }
  errors.save(sampled.errors, s);
  terms.save(sampled.terms[s]);
  normalisation?.errors.save(sampled.normalisation!, s);
}

/** Rows of P~ (n, count) of the chain: a function of a block of keys and its exact rows. */
function chainRows(space: Workspace, run: HeadRun, state: SampledGradient) {
  const { arithmetic, plan } = space;
  const { rows } = state;
  const rowMajor = rowFeatures(space, rows, run);
  const phi = arithmetic.array(plan.m * BLOCK);
  return (keys: KeyRows, exact: Real, approximate: Real): void => {
    keyFeatures(space, keys, phi);
    arithmetic.gemm(rows.count, BLOCK, plan.m, rowMajor, phi, approximate);
    approximateRows(space, run, state, keys, exact, approximate);
  };
}

/** The exact rows of P and dS over the row sums of the chain, and how far they are from what they should be. */
class Normalisation {
  readonly errors: ErrorSums;
  readonly #scale: Real;
  readonly #p: Real;
  readonly #dS: Real;
  readonly #off: Real;

  constructor(
    private readonly space: Workspace,
    run: HeadRun,
    private readonly state: SampledGradient,
  ) {
    const { arithmetic } = space;
    const n = state.rows.count;
    this.errors = new ErrorSums(space, n);
    this.#scale = arithmetic.array(n);
    for (let i = 0; i < n; i++) this.#scale[i] = overChainSum(run, state, i);
    [this.#p, this.#dS, this.#off] = [0, 1, 2].map(() => arithmetic.array(n * BLOCK));
  }

  /** exp(score - max) and G~ V' (n, count). */
  load(count: number, e: Real, t: Real): void {
    const { arithmetic } = this.space;
    const n = this.state.rows.count;
    arithmetic.combine(n * count, 1, e, 0, this.#p);
    arithmetic.combine(n * count, 1, t, 0, this.#dS);
    arithmetic.scoreGradient(n, count, this.#p, this.#dS, this.#scale, this.state.approximateShift);
  }

  /** The exact P and dS (n, count). */
  add(count: number, p: Real, dS: Real, columns: { score: Real; value: Real }): void {
    const { arithmetic } = this.space;
    const size = this.state.rows.count * count;
    arithmetic.combine(size, 1, p, 0, this.#off);
    arithmetic.combine(size, -1, this.#p, 1, this.#off);
    arithmetic.combine(size, 1, dS, -1, this.#dS);
    this.errors.add(count, this.#dS, this.#off, this.#p, columns);
  }
}

/** Factor between exp(score - max) and a row of P~ of sampled row i where the chain is exact. */
function overChainSum(
  { sampledRows, head }: Pick<HeadRun, 'sampledRows' | 'head'>,
  { max, inverse }: MergedRows,
  i: number,
): number {
  const [logScale, chainMax, total] = sampledRows.subarray(i * recordWidth(head));
  // The row of an outlier is exact as a whole.
  return logScale === -Infinity ? inverse[i] : Math.exp(max[i] - chainMax) / total;
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
  run: Pick<HeadRun, 'sampledRows' | 'head'>,
  state: SampledGradient,
  keys: KeyRows,
  exact: Real,
  approximate: Real,
): void {
  const { head } = space;
  const { rows } = state;
  const { count } = keys;
  // In place: the source is BLOCK wide, the result count wide, so nothing is read after it is written.
  for (let i = 1; count < BLOCK && i < rows.count; i++) {
    approximate.copyWithin(i * count, i * BLOCK, i * BLOCK + count);
  }
  const columns: number[] = [];
  for (let j = 0; j < count; j++) if (keys.logWeight[j] === -Infinity) columns.push(j);
  for (let i = 0; i < rows.count; i++) {
    const outlier = run.sampledRows[i * recordWidth(head)] === -Infinity;
    const row = i * count;
    const ratio = overChainSum(run, state, i);
    // Under a causal mask the keys of the diagonal block are exact, and those behind it hidden.
    const index = rows.index[i];
    const firstOfBlock = index - (index % BLOCK) - keys.index[0];
    const exactFrom = outlier ? 0 : head.causal ? Math.max(0, firstOfBlock) : count;
    for (const j of columns) approximate[row + j] = ratio * exact[row + j];
    for (let j = exactFrom; j < count; j++) approximate[row + j] = ratio * exact[row + j];
  }
}
