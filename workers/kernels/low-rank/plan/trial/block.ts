/** A few rows and columns of P on which plans are tried: exactly, and from features. */

import type { TensorData } from '../../../../tensor/tensor.js';
import type { Random } from '../../../random.js';
import { type Arithmetic, type Real, ROUNDOFF } from '../../arithmetic/arithmetic.js';
import { UNITS } from '../../chain/rounding.js';
import { EMPTY, MASKED } from '../../chain/run.js';
import { evaluateFeatures, featureBlock } from '../../features/evaluate.js';
import type { FeatureSet } from '../../features/features.js';
import type { HeadPlan } from '../../head/plan.js';
import type { Workspace } from '../../head/workspace.js';
import { type MeanSquares, squaredMeans } from './means.js';
import type { TrialSample } from './sample.js';

/** Rows of P, exactly, and what they weigh. */
export interface ExactBlock {
  /** exp(score - max) (n, count), 0 where the mask hides a pair. */
  readonly e: Real;
  readonly max: Real;
  /** t = G V' (n, count) for a random G. */
  readonly t: Real;
  /** |k_j|^2, |v_j|^2, and the keys that each stands for. */
  readonly keySquares: Float64Array;
  readonly valueSquares: Float64Array;
  readonly weight: Float64Array;
  readonly means: MeanSquares;
  /** null: the row sees nothing. */
  readonly rows: readonly (ExactRow | null)[];
}

interface ExactRow {
  /** 1 / sum_j e, and sum_j P t. */
  readonly inverse: number;
  readonly mean: number;
  /** Squares of the rows of dS K and of P V, key by key; and of what may be rounded away of them (chain/rounding.ts). */
  readonly scoreWhole: number;
  readonly valueWhole: number;
  readonly scoreRounding: number;
  readonly valueRounding: number;
}

export function exactBlock(space: Workspace, sample: TrialSample, random: Random): ExactBlock {
  const { arithmetic, head } = space;
  const { queries, keys, keyWeight } = sample;
  const { d, dv } = head;
  const [n, count] = [queries.count, keys.count];
  const transposed = arithmetic.array(Math.max(d, dv) * count);
  const e = arithmetic.array(n * count);
  const t = arithmetic.array(n * count);
  const gradient = arithmetic.array(n * dv);
  for (let i = 0; i < gradient.length; i++) gradient[i] = random.uniform() - 0.5;
  arithmetic.transpose(count, d, keys.k, transposed);
  arithmetic.gemm(n, count, d, queries.scaled, transposed, e);
  arithmetic.transpose(count, dv, keys.v, transposed);
  arithmetic.gemm(n, count, dv, gradient, transposed, t);
  hide(space, sample, e, count, MASKED);
  const max = arithmetic.array(n).fill(EMPTY);
  arithmetic.softmax(n, count, e, max, arithmetic.array(n), arithmetic.array(n));
  const squares = (x: Real, width: number) => {
    const norms = arithmetic.array(count);
    arithmetic.rowDots(count, width, x, x, norms);
    return inScratch(arithmetic, norms);
  };
  const [keySquares, valueSquares] = [squares(keys.k, d), squares(keys.v, dv)];
  const block = { e, max, t, keySquares, valueSquares, weight: inScratch(arithmetic, keyWeight) };
  const means = squaredMeans(space, sample, e);
  const [ofG, ofQ] = [arithmetic.array(n), arithmetic.array(n)];
  arithmetic.rowDots(n, dv, gradient, gradient, ofG);
  arithmetic.rowDots(n, d, queries.scaled, queries.scaled, ofQ);
  // The probe is even: the terms of G_i.v_j have that square.
  const ofTerms = ofG.map((square) => square / dv);
  return { ...block, means, rows: exactRows(arithmetic, block, ofTerms, ofQ) };
}

/** @param ofTerms, ofQ: sum_a G_ia^2 v_ja^2 over |v_j|^2, and |beta q_i|^2. */
function exactRows(
  arithmetic: Arithmetic,
  { e, t, weight, keySquares: u, valueSquares: v }: Omit<ExactBlock, 'rows' | 'means'>,
  ofTerms: Real,
  ofQ: Real,
): (ExactRow | null)[] {
  const count = weight.length;
  const [row, nothing, unused] = [0, 1, 2].map(() => arithmetic.sums(count));
  const exactly = arithmetic.sums(count).fill(1);
  const out = arithmetic.sums(2);
  return Array.from(ofTerms, (ofTerm, i) => {
    const [ei, ti] = [e.subarray(i * count), t.subarray(i * count)];
    arithmetic.joinedRow(count, 0, ei, exactly, ei, weight, ti, row, out);
    const [total, dot] = out;
    if (total === 0) return null;
    const [inverse, mean] = [1 / total, dot / total];
    const sums = [weight, u, v, unused, unused, out] as const;
    arithmetic.rowErrors(count, inverse, 0, mean, 0, 0, 0, ei, ti, nothing, ...sums);
    let [ofK, ofV, ofProduct] = [0, 0, 0];
    for (let j = 0; j < count; j++) {
      const p = inverse * weight[j] * ei[j];
      ofK += p * u[j];
      ofV += p * v[j];
      ofProduct += p * (ti[j] * ti[j] + ofTerm * v[j]);
    }
    const rounded = (UNITS * ROUNDOFF * (1 + Math.sqrt(ofQ[i] * ofK))) ** 2;
    const [valueRounding, scoreRounding] = [rounded * ofV, rounded * ofK * ofProduct];
    return { inverse, mean, scoreWhole: out[0], valueWhole: out[1], scoreRounding, valueRounding };
  });
}

/** Fills the pairs that the mask hides in x, whose rows are `stride` apart. */
function hide(
  { head }: Workspace,
  { queries, keys }: TrialSample,
  x: Real,
  stride: number,
  value: number,
): void {
  for (let i = 0; head.causal && i < queries.count; i++) {
    const row = queries.index[i];
    for (let j = 0; j < keys.count; j++) if (keys.index[j] > row) x[i * stride + j] = value;
  }
}

/** A float64 copy in the arithmetic's own memory. */
export function inScratch(arithmetic: Arithmetic, x: TensorData): Float64Array {
  const copy = arithmetic.sums(x.length);
  copy.set(x);
  return copy;
}

/** The same block from features. */
export interface LowRankBlock {
  /** phi_i . w_j phi_j (padded(n), stride); 0 in outlier rows and columns. */
  readonly product: Real;
  readonly stride: number;
  /** Brings a row of the product to the units of `e`. */
  readonly scale: Float64Array;
  /** Rows and columns that the chain would treat exactly. */
  readonly outlierQuery: readonly boolean[];
  readonly outlierKey: readonly boolean[];
  /**
   * prod_a rho_a^(alpha_a) times the root mean squares of h_alpha over queries and over keys, as they weigh in an
   * error, but no less than with normal rows, whose h_alpha are of unit size.
   */
  weightsBeyond(list: FeatureSet): Float64Array;
  /** Take so many features; more than before. */
  extend(m: number): void;
}

/**
 * Coordinates of outliers are overwritten: those of a smaller share are outliers of a larger one too.
 */
export function lowRankBlock(
  space: Workspace,
  sample: TrialSample,
  share: number,
  block: ExactBlock,
): LowRankBlock {
  const { arithmetic, head, plan } = space;
  const { d } = head;
  const { queries, keys } = sample;
  const [outlierQuery, outlierKey] = [sample.outlierQuery(share), sample.outlierKey(share)];
  const [n, count] = [queries.count, keys.count];
  let shift = -Infinity;
  for (let j = 0; j < count; j++) if (!outlierKey[j]) shift = Math.max(shift, keys.logWeight[j]);
  // A draft has neither outliers nor a weight shift of its own.
  const scale = Float64Array.from(block.max, (max, i) =>
    Math.exp(queries.logScale[i] + shift - max),
  );
  const weight = Float64Array.from({ length: count }, (_, j) =>
    Math.exp(keys.logWeight[j] - shift),
  );
  for (let i = 0; i < n; i++) if (outlierQuery[i]) queries.x.fill(0, i * d, (i + 1) * d);
  for (let j = 0; j < count; j++) if (outlierKey[j]) keys.z.fill(0, j * d, (j + 1) * d);
  let evaluated = 0;
  let [phiQ, phiK]: Real[] = [];
  const [nRows, keyRows] = [padded(n), padded(count)];
  const product = arithmetic.array(nRows * keyRows);
  let done = 0;
  return {
    product,
    stride: keyRows,
    scale,
    outlierQuery,
    outlierKey,
    weightsBeyond(list) {
      const mark = arithmetic.mark();
      const sizes = (x: Real, rows: number, by: (r: number) => number) => {
        const phi = features(arithmetic, { ...plan, features: list }, list.size, x, rows, by);
        const squares = arithmetic.array(list.size);
        arithmetic.rowDots(list.size, padded(rows), phi, phi, squares);
        return squares;
      };
      const ofQueries = sizes(queries.x, n, (i) =>
        outlierQuery[i]
          ? 0
          : scale[i] *
            (block.rows[i]?.inverse ?? 0) *
            Math.sqrt(sample.queryWeight[i] * sample.querySquares[i]),
      );
      const ofKeys = sizes(keys.z, count, (j) =>
        outlierKey[j] ? 0 : weight[j] * Math.sqrt(sample.keyWeight[j]),
      );
      const weights = list.weight.map((rho, f) => {
        const share = (ofQueries[f] * ofKeys[f]) / (ofQueries[0] * ofKeys[0]);
        return Math.max(rho, Math.sqrt(share) || 0);
      });
      arithmetic.release(mark);
      return weights;
    },
    extend(m) {
      if (m === done) return;
      if (m > evaluated) {
        evaluated = Math.min(plan.m, Math.max(m, 4 * evaluated));
        phiQ = features(arithmetic, plan, evaluated, queries.x, n, (i) =>
          outlierQuery[i] ? 0 : 1,
        );
        phiK = features(arithmetic, plan, evaluated, keys.z, count, (j) =>
          outlierKey[j] ? 0 : weight[j],
        );
      }
      const [a, b] = [phiQ.subarray(done * nRows), phiK.subarray(done * keyRows)];
      arithmetic.transposedGemm(nRows, keyRows, m - done, a, b, product, true);
      done = m;
      hide(space, sample, product, keyRows, 0);
    },
  };
}

const padded = (n: number) => 4 * Math.ceil(n / 4);

/** The first m features (m, padded(n)) of n rows of x, weighted; whatever x is behind them, they are 0. */
function features(
  arithmetic: Arithmetic,
  plan: HeadPlan,
  m: number,
  x: Real,
  n: number,
  weight: (i: number) => number,
): Real {
  const { d } = plan.balance;
  const rows = padded(n);
  const out = arithmetic.array(m * rows);
  const mark = arithmetic.mark();
  const all = arithmetic.array(rows * d);
  all.set(x.subarray(0, n * d));
  const block = featureBlock(arithmetic, plan.features, rows, m);
  evaluateFeatures(arithmetic, all, d, block);
  const weights = arithmetic.sums(rows);
  for (let i = 0; i < n; i++) weights[i] = weight(i);
  arithmetic.weighFeatures(m, rows, block.phi, weights, out);
  arithmetic.release(mark);
  return out;
}
