/**
 * What a plan would cost in accuracy, on a few rows and columns of P: the error for nested numbers of
 * features. The upstream gradient is a random probe. Errors are compared entry by entry, as sums of
 * squares: that does not depend on how many keys stand for all.
 */
import type { Arithmetic, Real } from './arithmetic.js';
import { type Basis, draftPlan, sampleBasis } from './basis.js';
import { evaluateFeatures, featureBlock } from './evaluate.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { Random } from './random.js';
import { openWorkspace, type Workspace } from './rows.js';
import { drawTrial, type TrialSample } from './trial-sample.js';

/** Feature numbers that are tried. */
export const FEATURE_STEPS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024] as const;

export interface TrialRow {
  /** Features really used: a spectrum can run out of directions. */
  readonly features: number;
  /** Relative error of a row of dS K or P V; infinity when a row sum lost its sign. */
  readonly error: number;
}

/** A basis with its share of outliers, and a list of errors over FEATURE_STEPS. */
export interface Trial {
  readonly basis: Basis;
  readonly rows: readonly TrialRow[];
}

export function tryShare(
  arithmetic: Arithmetic,
  head: Head,
  outlierShare: number,
  mostFeatures: number,
  seed: number,
): Trial {
  const steps = FEATURE_STEPS.filter((m) => m <= mostFeatures);
  const basis = sampleBasis(arithmetic, head, outlierShare, seed);
  const plan = draftPlan(head, basis, steps[steps.length - 1], 0);
  const space = openWorkspace(arithmetic, head, plan);
  const random = new Random(seed + 1);
  const sample = drawTrial(space, outlierShare, random);
  const block = exactBlock(space, sample, random);
  const low = lowRankBlock(space, sample, block);
  const rows = steps.map((step) => {
    const features = Math.min(step, plan.m);
    low.extend(features);
    return { features, error: compare(sample, block, low.rows()) };
  });
  return { basis, rows };
}

/** exp(score - max) (n, count), 0 where the mask hides a pair; t = G V' for a random G. */
interface ExactBlock {
  readonly e: Real;
  readonly max: Float64Array;
  readonly t: Real;
  readonly keySquares: Float64Array;
  readonly valueSquares: Float64Array;
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
  return { e, max, t, keySquares: squares(keys.k, d), valueSquares: squares(keys.v, dv), hidden };
}

/** The same block from features, which can be added to; exact where the chain would be exact. */
function lowRankBlock(space: Workspace, sample: TrialSample, block: ExactBlock) {
  const { arithmetic, head, plan } = space;
  const { queries, keys, outlierKey, outlierQuery } = sample;
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
  const phiQ = features(arithmetic, plan, queries.x, head.d, n, (i) => (outlierQuery[i] ? 0 : 1));
  const phiK = features(arithmetic, plan, keys.z, head.d, count, (j) =>
    outlierKey[j] ? 0 : weight[j],
  );
  const product = arithmetic.array(n * count);
  const result = new Float64Array(n * count);
  let done = 0;
  return {
    extend(m: number): void {
      if (m === done) return;
      const [a, b] = [phiQ.subarray(done * n), phiK.subarray(done * count)];
      arithmetic.transposedGemm(n, count, m - done, a, b, product, true);
      done = m;
    },
    rows(): Float64Array {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < count; j++) {
          const at = i * count + j;
          if (outlierQuery[i] || outlierKey[j]) result[at] = block.e[at];
          else result[at] = block.hidden(i, j) ? 0 : scale[i] * product[at];
        }
      }
      return result;
    },
  };
}

/** phi (m, n), each row of x weighted; rows of weight 0 are 0 whatever their features. */
function features(
  arithmetic: Arithmetic,
  plan: HeadPlan,
  x: Real,
  d: number,
  n: number,
  weight: (i: number) => number,
): Real {
  const out = arithmetic.array(plan.m * n);
  const mark = arithmetic.mark();
  const rows = 4 * Math.ceil(n / 4);
  const block = featureBlock(arithmetic, plan.features, rows);
  evaluateFeatures(arithmetic, x, d, block);
  for (let i = 0; i < n; i++) {
    const w = weight(i);
    if (w === 0) continue;
    for (let f = 0; f < plan.m; f++) out[f * n + i] = w * block.phi[f * rows + i];
  }
  arithmetic.release(mark);
  return out;
}

/** The larger of the relative errors of dS K and P V, both blocks normalised row by row. */
function compare(sample: TrialSample, block: ExactBlock, approximate: Float64Array): number {
  const { queryWeight, keyWeight, queries, keys } = sample;
  const { e, t, keySquares, valueSquares } = block;
  const count = keys.count;
  let [scoreError, score, valueError, value] = [0, 0, 0, 0];
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
    if (!(otherTotal > 0)) return Number.POSITIVE_INFINITY;
    mean /= total;
    otherMean /= otherTotal;
    for (let j = 0; j < count; j++) {
      const p = e[row + j] / total;
      const q = approximate[row + j] / otherTotal;
      const ds = p * (t[row + j] - mean);
      const w = queryWeight[i] * keyWeight[j];
      scoreError += w * keySquares[j] * (ds - q * (t[row + j] - otherMean)) ** 2;
      score += w * keySquares[j] * ds * ds;
      valueError += w * valueSquares[j] * (p - q) ** 2;
      value += w * valueSquares[j] * p * p;
    }
  }
  const error = Math.sqrt(Math.max(scoreError / (score || 1), valueError / (value || 1)));
  return Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
}
