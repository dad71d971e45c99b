/**
 * The coordinates and the outliers of one head.
 *
 * A handful of rows with large norms (attention sinks, massive activations) would ruin every polynomial,
 * so the rows of which the features leave out most are put aside and treated exactly. The coordinates come from a sample without them.
 */

import type { TensorData } from '../../../tensor/tensor.js';
import { Random } from '../../random.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import {
  NO_CONDITIONAL_MEAN,
  sampleConditionalMean,
} from '../error/drawn-features/conditional-mean.js';
import { canDrawFeatures } from '../error/drawn-features/draw.js';
import { type Balance, balance, covariance, mean } from '../features/balance.js';
import { type FeatureSet, selectFeatures } from '../features/features.js';
import {
  type Directions,
  hyperbolicCross,
  principalDirections,
} from '../features/hyperbolic-cross.js';
import { apply, gather, load } from '../head/affine.js';
import { BLOCK } from '../head/block.js';
import { type Affine, fullWidth, type Head, type HeadProjection } from '../head/head.js';
import type { ConditionalMean } from '../head/plan.js';
import { keyBias, keyCentre } from '../head/rows/key-centre.js';
import { rotation } from '../head/rows/rotation.js';

/**
 * Rows that the covariances are taken from, at least: their error costs a little of the balance. What it leaves of the mean of a feature
 * over the keys is the chain's normalisation to make up, which drawn rows have to tell: of a long input more rows.
 */
const SAMPLE = 1024;
const MOST_SAMPLED = 8192;
const ROWS_FOR_ONE = 16;

export const balanceSample = (length: number) =>
  Math.min(MOST_SAMPLED, Math.max(SAMPLE, Math.ceil(length / ROWS_FOR_ONE)));

export interface Basis {
  readonly balance: Balance;
  /** Principal directions of K - centre and of Q, as far as products at full width need them. */
  readonly directions: { readonly right: Directions | null; readonly left: Directions | null };
  /** Those that a plan may take, and others behind them: features the next ones, and those that may be drawn. */
  readonly features: FeatureSet;
  readonly centreXK: Float64Array;
  readonly centreXV: Float64Array;
  readonly conditionalMean: ConditionalMean;
}

/** Balance of a head with a share of the rows of both sides put aside, and so many features. */
export function sampleBasis(
  arithmetic: Arithmetic,
  head: Head,
  outlierShare: number,
  features: number,
  seed: number,
): Basis {
  const random = new Random(seed);
  const { d, value } = head;
  const mark = arithmetic.mark();
  const { q, k, keyList, centreXK } = sampleRows(
    arithmetic,
    head,
    balanceSample(head.keyLength),
    random,
  );
  const bulk = outlierShare > 0 ? withoutOutliers(arithmetic, q, k, d, outlierShare) : { q, k };
  const result = balance(arithmetic, bulk.q, bulk.k, d, head.beta);
  const conditionalMean = canDrawFeatures(head)
    ? conditionalMeanFrom(arithmetic, head, result, centreXK, random)
    : NO_CONDITIONAL_MEAN;
  const directions = directionsOf(arithmetic, head, bulk, result.centreK);
  arithmetic.release(mark);
  return {
    balance: result,
    directions,
    features: selectFeatures(result.sigma, features),
    centreXK,
    centreXV: meanRow(arithmetic, value.rows, value.effective.inputs, keyList),
    conditionalMean,
  };
}

/** Those of K - centre and of Q that products at full width need. */
export function directionsOf(
  arithmetic: Arithmetic,
  head: Head,
  { q, k }: { readonly q: TensorData; readonly k: TensorData },
  centreK: Float64Array,
): Basis['directions'] {
  const { d } = head;
  const full = fullWidth(head);
  const of = (x: TensorData, centre: Float64Array) =>
    principalDirections(covariance(arithmetic, x, d, centre), d, arithmetic.checkpoint);
  return {
    right: full.query ? of(k, centreK) : null,
    // Columns of dS do not add up to zero, so Q has no centre to be taken from.
    left: full.key ? of(q, new Float64Array(d)) : null,
  };
}

/** Q and K - centre of so many rows, rotated. */
export function sampleRows(
  arithmetic: Arithmetic,
  head: Head,
  rows: number,
  random: Random,
): {
  readonly q: Real;
  readonly k: Real;
  readonly keyList: Int32Array;
  readonly centreXK: Float64Array;
} {
  const { query, key } = head;
  const queryList = random.sample(head.queryLength, rows);
  const keyList = random.sample(head.keyLength, rows);
  const q = project(arithmetic, query.effective, rowsOf(arithmetic, query, queryList));
  const centreXK = meanRow(arithmetic, key.rows, key.effective.inputs, keyList);
  const k = projectKeys(arithmetic, head, keyList, centreXK).k;
  for (const [x, list] of [
    [q, queryList],
    [k, keyList],
  ] as const) {
    const rotary = rotation(arithmetic, head, list.length);
    rotary?.load((r) => list[r], list.length);
    rotary?.forwards(list.length, x);
  }
  return { q, k, keyList, centreXK };
}

/** From twice as many rows: what the conditional mean leaves is to be small beside 1 / sqrt(L). */
function conditionalMeanFrom(
  arithmetic: Arithmetic,
  head: Head,
  result: Balance,
  centreXK: Float64Array,
  random: Random,
): ConditionalMean {
  const { value, keyLength } = head;
  const list = random.sample(keyLength, 2 * balanceSample(keyLength));
  const { k, xk } = projectKeys(arithmetic, head, list, centreXK);
  return sampleConditionalMean(arithmetic, head, result, k, xk, rowsOf(arithmetic, value, list));
}

/** The listed rows of X (n, inputs). */
function rowsOf(
  arithmetic: Arithmetic,
  { rows, effective }: HeadProjection,
  list: Int32Array,
): Real {
  const x = arithmetic.array(list.length * effective.inputs);
  gather(rows, effective.inputs, (r) => list[r], list.length, x);
  return x;
}

function project(
  arithmetic: Arithmetic,
  map: Affine,
  x: Real,
  bias: Float64Array | null = map.bias,
): Real {
  const { inputs, outputs, weight } = map;
  const n = x.length / inputs;
  const y = arithmetic.array(n * outputs);
  apply(arithmetic, n, load(arithmetic, inputs, outputs, weight, bias), x, y);
  return y;
}

/** Keys as head/key-centre.ts has them, and the inputs that they come from. */
function projectKeys(
  arithmetic: Arithmetic,
  head: Head,
  list: Int32Array,
  centreXK: Float64Array,
): { readonly k: Real; readonly xk: Real } {
  const xk = rowsOf(arithmetic, head.key, list);
  keyCentre({ arithmetic, head, plan: { centreXK } })(list.length, xk);
  return { k: project(arithmetic, head.key.effective, xk, keyBias(head)), xk };
}

function meanRow(
  arithmetic: Arithmetic,
  rows: TensorData,
  width: number,
  list: Int32Array,
): Float64Array {
  const mark = arithmetic.mark();
  const block = arithmetic.array(BLOCK * width);
  const each = arithmetic.array(BLOCK).fill(1);
  const sum = arithmetic.array(width);
  const total = arithmetic.sums(width);
  for (let from = 0; from < list.length; from += BLOCK) {
    const n = Math.min(BLOCK, list.length - from);
    gather(rows, width, (r) => list[from + r], n, block);
    arithmetic.gemm(1, width, n, each, block, sum);
    arithmetic.fold(width, sum, total);
  }
  const mean = total.map((x) => x / list.length);
  arithmetic.release(mark);
  return mean;
}

/**
 * Both samples without the given share of rows: a query is judged by the variance of its logits over
 * the keys, (q - c)'C_k (q - c), and a key likewise, which needs no balance yet.
 */
export function withoutOutliers(
  arithmetic: Arithmetic,
  q: Real,
  k: Real,
  d: number,
  share: number,
): { q: TensorData; k: TensorData } {
  const [cq, ck] = [q, k].map((x) => covariance(arithmetic, x, d, mean(x, d)));
  return {
    q: smallest(arithmetic, q, d, ck, share),
    k: smallest(arithmetic, k, d, cq, share),
  };
}

/** The rows of x (n, d) without the given share of largest (x - mean)'C (x - mean). */
function smallest(
  arithmetic: Arithmetic,
  x: Real,
  d: number,
  c: Float64Array,
  share: number,
): TensorData {
  const n = x.length / d;
  const centre = mean(x, d);
  const mark = arithmetic.mark();
  const centred = arithmetic.array(n * d);
  for (let i = 0; i < n * d; i++) centred[i] = x[i] - centre[i % d];
  const product = arithmetic.array(n * d);
  const matrix = arithmetic.array(d * d);
  matrix.set(c);
  arithmetic.gemm(n, d, d, centred, matrix, product);
  const norms = new Float64Array(n);
  for (let i = 0; i < n * d; i++) norms[Math.floor(i / d)] += centred[i] * product[i];
  arithmetic.release(mark);
  const order = Array.from(norms.keys()).sort((a, b) => norms[a] - norms[b]);
  const kept = order.slice(0, Math.max(1, Math.floor(n * (1 - share)))).sort((a, b) => a - b);
  const out = new Float64Array(kept.length * d);
  kept.forEach((row, r) => {
    out.set(x.subarray(row * d, (row + 1) * d), r * d);
  });
  return out;
}

/** Pairs of features and directions that m features would take at full width. */
export function crossPairs(
  { directions: { right, left }, features }: Pick<Basis, 'directions' | 'features'>,
  m: number,
): number {
  const used = Math.min(m, features.size);
  return [right, left].reduce(
    (sum, side) => sum + (side ? hyperbolicCross(side, features, used).pairs : 0),
    0,
  );
}
