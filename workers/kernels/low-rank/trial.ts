/**
 * What a plan would cost in accuracy, on a few rows and columns of P: the error for nested numbers of
 * features. The upstream gradient is a random probe. Errors are compared entry by entry, as sums of
 * squares: that does not depend on how many keys stand for all.
 */
import type { Arithmetic, Real } from './arithmetic.js';
import { type Basis, draftPlan, sampleBasis } from './basis.js';
import { evaluateFeatures, featureBlock } from './evaluate.js';
import type { FeatureSet } from './features.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { Random } from './random.js';
import { openWorkspace, type Workspace } from './rows.js';
import { canDrawTail, tailSize } from './tail.js';
import { tiltedRows } from './tilt.js';
import { drawTrial, type LongestRows, type TrialSample } from './trial-sample.js';

/** Feature numbers that are tried; between them the plan interpolates. */
export const FEATURE_STEPS = [16, 32, 64, 128, 256, 512, 1024] as const;
/** So many are tried in any case: the answer can then say what the input would need. */
export const ALWAYS_TRIED = 64;
/** With so many times the error that is enough, still uneven, outliers are wanting and not features. */
const FAR = 8;

export interface TrialRow {
  /** Features really used: a spectrum can run out of directions. */
  readonly features: number;
  /** Features beyond them that matter as one of equal weight would: tailSize. */
  readonly tail: number;
  /** Errors of dS K and of P V. */
  readonly score: TrialError;
  readonly value: TrialError;
}

/** Error of products with sampled rows of P. */
export interface TrialError {
  /** Relative; infinity when a row sum lost its sign. */
  readonly error: number;
  /** Rows and columns that would make as much error if all were alike: few when few make most of it. */
  readonly rows: number;
  readonly columns: number;
  /** Share of the square that the row sums of the chain make, and not the features for themselves. */
  readonly normalisation: number;
}

/** A basis, a share of outliers, and a list of errors over FEATURE_STEPS. */
export interface Trial {
  readonly share: number;
  readonly basis: Basis;
  /** How much each feature of the basis weighs in an error when it is left out; empty where none can be drawn. */
  readonly tailWeights: Float64Array;
  readonly rows: readonly TrialRow[];
}

export interface TrialRequest {
  /** Shares of outliers to try, rising; no further than to one under which errors are even. */
  readonly shares: readonly number[];
  /** The share that the basis is made without. */
  readonly without: number;
  /** Features of the basis: the most that the plan may take, and those behind them. */
  readonly listed: number;
  /** Feature numbers to try, rising; no further than to one whose error is `enough`. */
  readonly steps: readonly number[];
  readonly enough: number;
  readonly longest: LongestRows;
  readonly seed: number;
}

export function tryShares(
  arithmetic: Arithmetic,
  head: Head,
  { shares, without, listed, steps, enough, longest, seed }: TrialRequest,
): Trial[] {
  const basis = sampleBasis(arithmetic, head, without, listed, seed);
  const plan = draftPlan(head, basis, steps[steps.length - 1], 0);
  const space = openWorkspace(arithmetic, head, plan, 1);
  const random = new Random(seed + 1);
  const sample = drawTrial(space, longest, random);
  const block = exactBlock(space, sample, random);
  const trials: Trial[] = [];
  for (const share of shares) {
    const mark = arithmetic.mark();
    const low = lowRankBlock(space, sample, share, block);
    const tailWeights = canDrawTail(head) ? low.tailWeights(basis.features) : NONE;
    const rows: TrialRow[] = [];
    for (const step of steps) {
      const features = Math.min(step, plan.m);
      low.extend(features);
      const tail = tailSize(basis.features, tailWeights, features);
      const row = { features, tail, ...compare(sample, block, low.rows()) };
      rows.push(row);
      const error = Math.max(row.score.error, row.value.error);
      if (error <= enough || features < step) break;
      if (features >= ALWAYS_TRIED && error > FAR * enough && isUneven(head, row)) break;
    }
    arithmetic.release(mark);
    trials.push({ share, basis, tailWeights, rows });
    if (!isUneven(head, rows[rows.length - 1])) break;
  }
  return trials;
}

const NONE = new Float64Array(0);

/** Errors are uneven when fewer than this share of the queries, or of the keys, would make as much alike. */
const UNEVEN_QUERIES = 0.4;
const UNEVEN_KEYS = 0.3;

/** Whether a few rows or columns make most of an error, so that it may help to put them aside. */
export function isUneven({ queryLength, keyLength }: Head, { score, value }: TrialRow): boolean {
  return [score, value].some(
    (e) =>
      e.error > 0 && (e.rows < UNEVEN_QUERIES * queryLength || e.columns < UNEVEN_KEYS * keyLength),
  );
}

/** exp(score - max) (n, count), 0 where the mask hides a pair; t = G V' for a random G. */
interface ExactBlock {
  readonly e: Real;
  readonly max: Float64Array;
  /** Row sums of e over all keys. */
  readonly total: Float64Array;
  readonly t: Real;
  readonly keySquares: Float64Array;
  readonly valueSquares: Float64Array;
  /** |(P K)_i - y_i|^2, |(P V)_i - y_i|^2 with the centres y_i of tilt.ts. */
  readonly keyMeans: Float64Array;
  readonly valueMeans: Float64Array;
  readonly hidden: (i: number, j: number) => boolean;
}

function exactBlock(space: Workspace, sample: TrialSample, random: Random): ExactBlock {
  const { arithmetic, head } = space;
  const { queries, keys } = sample;
  const { d, dv } = head;
  const [n, count] = [queries.count, keys.count];
  const hidden = (i: number, j: number) => head.causal && keys.index[j] > queries.index[i];
  const turned = arithmetic.array(Math.max(d, dv) * count);
  const e = arithmetic.array(n * count);
  const t = arithmetic.array(n * count);
  const gradient = arithmetic.array(n * dv);
  for (let i = 0; i < gradient.length; i++) gradient[i] = random.uniform() - 0.5;
  arithmetic.transpose(count, d, keys.k, turned);
  arithmetic.gemm(n, count, d, queries.scaled, turned, e);
  arithmetic.transpose(count, dv, keys.v, turned);
  arithmetic.gemm(n, count, dv, gradient, turned, t);
  const max = new Float64Array(n).fill(-Infinity);
  for (let i = 0; i < n; i++) {
    const row = i * count;
    for (let j = 0; j < count; j++) if (!hidden(i, j)) max[i] = Math.max(max[i], e[row + j]);
    for (let j = 0; j < count; j++) {
      e[row + j] = hidden(i, j) ? 0 : Math.exp(e[row + j] - max[i]);
    }
  }
  const squares = (x: Real, width: number) =>
    Float64Array.from({ length: count }, (_, j) => {
      let sum = 0;
      for (let a = j * width; a < (j + 1) * width; a++) sum += x[a] * x[a];
      return sum;
    });
  const [keySquares, valueSquares] = [squares(keys.k, d), squares(keys.v, dv)];
  const { key, inputsV } = space.plan.tilt;
  const keyMeans = meanSquares(space, sample, e, keys.k, key);
  const { weight } = head.value.effective;
  const slopes = timesMatrix(inputsV, weight, head.value.effective.inputs, dv);
  const valueMeans = meanSquares(space, sample, e, keys.v, slopes);
  if (head.kind === 'target') {
    // G - G~ = O - O~ times the mean of the values comes with it.
    const centre = space.plan.centreV.reduce((sum, c) => sum + c * c, 0);
    for (let i = 0; i < n; i++) valueMeans[i] += centre;
  }
  const total = Float64Array.from({ length: n }, (_, i) =>
    sample.keyWeight.reduce((sum, w, j) => sum + w * e[i * count + j], 0),
  );
  return { e, max, total, t, keySquares, valueSquares, keyMeans, valueMeans, hidden };
}

/**
 * |(P X)_i - y_i|^2 for rows x (count, width) and P from e (n, count), whose columns weigh differently; y_i from slopes
 * (d, width), 0 without. Of keys, the sample's own mean stands for that of all.
 */
function meanSquares(
  { arithmetic, head, plan }: Workspace,
  { queries, keyWeight }: TrialSample,
  e: Real,
  x: Real,
  slopes: Float64Array,
): Float64Array {
  const { d } = head;
  const count = keyWeight.length;
  const n = queries.count;
  const width = x.length / count;
  const mark = arithmetic.mark();
  // The last row is the mean.
  const p = arithmetic.array((n + 1) * count);
  const product = arithmetic.array((n + 1) * width);
  for (let i = 0; i <= n; i++) {
    let total = 0;
    for (let j = 0; j < count; j++) {
      p[i * count + j] = keyWeight[j] * (i < n ? e[i * count + j] : 1);
      total += p[i * count + j];
    }
    for (let j = 0; j < count; j++) p[i * count + j] /= total || 1;
  }
  arithmetic.gemm(n + 1, width, count, p, x, product);
  const y = arithmetic.array(n * width);
  if (slopes.length > 0) {
    const tilted = tiltedRows({ arithmetic, head, plan }, n);
    tilted.load(queries);
    const matrix = arithmetic.array(d * width);
    matrix.set(slopes);
    arithmetic.gemm(n, width, d, tilted.x, matrix, y);
  }
  const squares = Float64Array.from({ length: n }, (_, i) => {
    let sum = 0;
    for (let a = 0; a < width; a++) {
      sum += (product[i * width + a] - product[n * width + a] - y[i * width + a]) ** 2;
    }
    return sum;
  });
  arithmetic.release(mark);
  return squares;
}

/** a (.., inner) b (inner, width), of float64 numbers outside of the arithmetic. */
function timesMatrix(a: Float64Array, b: Float64Array, inner: number, width: number): Float64Array {
  const c = new Float64Array((a.length / inner) * width);
  a.forEach((x, i) => {
    const [to, from] = [Math.floor(i / inner) * width, (i % inner) * width];
    for (let y = 0; y < width; y++) c[to + y] += x * b[from + y];
  });
  return c;
}

/**
 * The same block from features, which can be added to; exact where the chain would be exact. Coordinates
 * of outliers are overwritten: those of a smaller share are outliers of a larger one too.
 */
function lowRankBlock(space: Workspace, sample: TrialSample, share: number, block: ExactBlock) {
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
  const result = new Float64Array(n * count);
  let done = 0;
  return {
    extend(m: number): void {
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
    },
    /**
     * prod_a rho_a^(alpha_a) times the root mean squares of h_alpha over queries and over keys, as they weigh in an
     * error, but no less than with normal rows, whose h_alpha are of unit size.
     */
    tailWeights(list: FeatureSet): Float64Array {
      const mark = arithmetic.mark();
      const sizes = (x: Real, count: number, by: (i: number) => number) => {
        const phi = features(arithmetic, { ...plan, features: list }, list.size, x, count, by);
        const squares = arithmetic.array(list.size);
        arithmetic.rowDots(list.size, padded(count), phi, phi, squares);
        return squares;
      };
      const ofQueries = sizes(queries.x, n, (i) =>
        outlierQuery[i]
          ? 0
          : (scale[i] / block.total[i]) * Math.sqrt(sample.queryWeight[i] * sample.querySquares[i]),
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
    rows(): Float64Array {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < count; j++) {
          const at = i * count + j;
          if (outlierQuery[i] || outlierKey[j]) result[at] = block.e[at];
          else result[at] = block.hidden(i, j) ? 0 : scale[i] * product[i * keyRows + j];
        }
      }
      return result;
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

/** Errors of dS K, which weigh with |X_i|^2 in a gradient, and of P V; both blocks normalised row by row. */
function compare(
  sample: TrialSample,
  block: ExactBlock,
  approximate: Float64Array,
): { score: TrialError; value: TrialError } {
  const { queryWeight, querySquares, keyWeight, queries, keys } = sample;
  const { e, t, keySquares, valueSquares, keyMeans, valueMeans } = block;
  const count = keys.count;
  const score = new ErrorSums(queryWeight, keyWeight);
  const value = new ErrorSums(queryWeight, keyWeight);
  for (let i = 0; i < queries.count; i++) {
    const row = i * count;
    let [total, mean, otherTotal, otherMean] = [0, 0, 0, 0];
    for (let j = 0; j < count; j++) {
      const [a, b] = [keyWeight[j] * e[row + j], keyWeight[j] * approximate[row + j]];
      total += a;
      mean += a * t[row + j];
      otherTotal += b;
      otherMean += b * t[row + j];
    }
    if (total === 0) continue;
    if (!(otherTotal > 0)) return { score: LOST, value: LOST };
    mean /= total;
    otherMean /= otherTotal;
    let [scoreError, scoreWhole, valueError, valueWhole] = [0, 0, 0, 0];
    // Of the row sum, of its square if all were noise, and the same of G.(O - O~).
    let [off1, noise1, own1, noiseT] = [0, 0, 0, 0];
    for (let j = 0; j < count; j++) {
      const p = e[row + j] / total;
      const off = p - approximate[row + j] / otherTotal;
      const ds = p * (t[row + j] - mean);
      const dsOff = off * (t[row + j] - otherMean) + p * (otherMean - mean);
      const [forScore, forValue] = [keySquares[j] * dsOff * dsOff, valueSquares[j] * off * off];
      const [w, all] = [keyWeight[j], queryWeight[i]];
      // What the features leave out, in units of the chain's row sum.
      const left = (e[row + j] - approximate[row + j]) / otherTotal;
      off1 += w * left;
      noise1 += w * left * left;
      own1 += w * w * left * left;
      noiseT += w * (left * (t[row + j] - otherMean)) ** 2;
      scoreError += w * forScore;
      valueError += w * forValue;
      scoreWhole += w * keySquares[j] * ds * ds;
      valueWhole += w * valueSquares[j] * p * p;
      score.columns[j] += all * querySquares[i] * forScore;
      value.columns[j] += all * forValue;
    }
    // The sum over a sample of keys has more noise than that over all.
    const sumSquare = Math.max(0, off1 * off1 - own1) + noise1;
    score.addRow(i, querySquares[i], scoreError, scoreWhole, noiseT * keyMeans[i]);
    value.addRow(i, 1, valueError, valueWhole, sumSquare * valueMeans[i]);
  }
  return { score: score.result(), value: value.result() };
}

const LOST: TrialError = { error: Number.POSITIVE_INFINITY, rows: 0, columns: 0, normalisation: 1 };

/** Sums of squares over a sample of rows and columns, each of which stands for several. */
class ErrorSums {
  readonly columns: Float64Array;
  readonly #rows: Float64Array;
  #whole = 0;
  #normalised = 0;

  constructor(
    readonly rowWeight: Float64Array,
    readonly columnWeight: Float64Array,
  ) {
    this.#rows = new Float64Array(rowWeight.length);
    this.columns = new Float64Array(columnWeight.length);
  }

  addRow(i: number, square: number, error: number, whole: number, normalised: number): void {
    this.#rows[i] = square * error;
    this.#whole += this.rowWeight[i] * square * whole;
    this.#normalised += this.rowWeight[i] * square * normalised;
  }

  result(): TrialError {
    const rows = alike(this.#rows, this.rowWeight);
    const columns = alike(this.columns, this.columnWeight);
    const error = Math.sqrt(rows.total / (this.#whole || 1));
    if (!Number.isFinite(error)) return LOST;
    const normalisation = rows.total > 0 ? Math.min(1, this.#normalised / rows.total) : 0;
    return { error, rows: rows.count, columns: columns.count, normalisation };
  }
}

/** Sum of weighted squares, and (sum of roots)^2 / sum of squares: how many make it up. */
function alike(squares: Float64Array, weight: Float64Array): { total: number; count: number } {
  let [total, roots] = [0, 0];
  squares.forEach((x, i) => {
    total += weight[i] * x;
    roots += weight[i] * Math.sqrt(x);
  });
  return { total, count: total > 0 ? (roots * roots) / total : 0 };
}
