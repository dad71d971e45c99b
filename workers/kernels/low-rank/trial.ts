/**
 * What a plan would cost in accuracy, on a few rows: the error of rows of dS and P for nested numbers of
 * features and several shares of outliers. The upstream gradient is a random probe, and the keys are a
 * sample: relative errors hardly depend on either.
 */
import type { Arithmetic, Real } from './arithmetic.js';
import { type Basis, draftPlan, logitNorm, sampleBasis } from './basis.js';
import { evaluateFeatures, featureBlock, logC, logG } from './evaluate.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { Random } from './random.js';
import { keyRows, openWorkspace, queryRows } from './rows.js';

/** Feature numbers that are tried. */
export const FEATURE_STEPS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024] as const;
const QUERIES = 48;
const KEYS = 1024;

export interface TrialRow {
  /** Features really used: a spectrum can run out of directions. */
  readonly features: number;
  readonly maxDegree: number;
  /** Relative error of a row, root mean square; infinity when a row sum lost its sign. */
  readonly error: number;
}

/** A basis with this share of outliers, and a list of errors over FEATURE_STEPS. */
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
  const mark = arithmetic.mark();
  const rows = tryBasis(arithmetic, head, basis, outlierShare, steps, seed + 1);
  arithmetic.release(mark);
  return { basis, rows };
}

function tryBasis(
  arithmetic: Arithmetic,
  head: Head,
  basis: Basis,
  share: number,
  steps: readonly number[],
  seed: number,
): TrialRow[] {
  const random = new Random(seed);
  const { d, dv } = head;
  const plan = draftPlan(head, basis, steps[steps.length - 1], 0);
  const space = openWorkspace(arithmetic, head, plan);
  const queryList = random.sample(head.queryLength, QUERIES);
  const keyList = random.sample(head.keyLength, KEYS);
  const queries = queryRows(space, queryList.length);
  const keys = keyRows(space, keyList.length);
  queries.load((r) => queryList[r], queryList.length);
  keys.load((r) => keyList[r], keyList.length);
  const n = queries.count;
  const outlierKey = above(keys.z, d, plan, keys.count, share);
  const outlierQuery = above(queries.x, d, plan, n, share);
  let shift = -Infinity;
  for (let j = 0; j < keys.count; j++) {
    if (!outlierKey[j]) shift = Math.max(shift, keys.logWeight[j]);
  }
  const count = keys.count;
  const exact = scores(arithmetic, head, queries.scaled, keys.k, n, count, queryList, keyList);
  const scale = Float64Array.from({ length: n }, (_, i) =>
    Math.exp(logC(plan.features) + logG(plan.features, queries.x, d, i) + shift - exact.max[i]),
  );
  const [phiQ, phiK] = [
    features(arithmetic, plan, queries.x, d, n),
    features(arithmetic, plan, keys.z, d, count),
  ];
  for (let j = 0; j < count; j++) {
    const weight = outlierKey[j] ? 0 : Math.exp(keys.logWeight[j] - shift);
    for (let f = 0; f < plan.m; f++)
      phiK[f * count + j] = outlierKey[j] ? 0 : weight * phiK[f * count + j];
  }
  const gradient = arithmetic.array(n * dv);
  for (let i = 0; i < gradient.length; i++) gradient[i] = random.uniform() - 0.5;
  const valuesTransposed = arithmetic.array(dv * count);
  arithmetic.transpose(count, dv, keys.v, valuesTransposed);
  const t = arithmetic.array(n * count);
  arithmetic.gemm(n, count, dv, gradient, valuesTransposed, t);
  const product = arithmetic.array(n * count);
  const reference = rowProducts(arithmetic, head, exact.p, t, keys.k, keys.v, n, count);
  const approximate = arithmetic.array(n * count);
  const done = { features: 0 };
  return steps.map((step) => {
    const m = Math.min(step, plan.m);
    if (m > done.features) {
      const part = arithmetic.mark();
      arithmetic.transposedGemm(
        n,
        count,
        m - done.features,
        phiQ.subarray(done.features * n, m * n),
        phiK.subarray(done.features * count, m * count),
        product,
        true,
      );
      arithmetic.release(part);
      done.features = m;
    }
    let valid = true;
    for (let i = 0; i < n; i++) {
      let total = 0;
      for (let j = 0; j < count; j++) {
        const at = i * count + j;
        const hidden = head.causal && keyList[j] > queryList[i];
        const low = hidden ? 0 : scale[i] * product[at];
        approximate[at] = outlierQuery[i] || outlierKey[j] ? exact.p[at] * exact.total[i] : low;
        total += approximate[at];
      }
      if (!(total > 0) && exact.total[i] > 0) valid = false;
      for (let j = 0; j < count; j++) approximate[i * count + j] /= total || 1;
    }
    const products = rowProducts(arithmetic, head, approximate, t, keys.k, keys.v, n, count);
    const error = Math.max(
      relative(products.score, reference.score),
      relative(products.value, reference.value),
    );
    let maxDegree = 0;
    for (let f = 0; f < m; f++) maxDegree = Math.max(maxDegree, plan.features.degree[f]);
    return { features: m, maxDegree, error: valid && error < 1e6 ? error : Infinity };
  });
}

/** The rows with the largest logit norms. */
function above(x: Real, d: number, plan: HeadPlan, n: number, share: number): boolean[] {
  const norms = Array.from({ length: n }, (_, i) => logitNorm(x, d, plan.balance.sigma, i));
  const limit = norms.slice().sort((a, b) => b - a)[Math.floor(share * n)] ?? 0;
  return norms.map((norm) => share > 0 && norm > limit);
}

function scores(
  arithmetic: Arithmetic,
  head: Head,
  queries: Real,
  keys: Real,
  n: number,
  count: number,
  queryList: Int32Array,
  keyList: Int32Array,
) {
  const turned = arithmetic.array(head.d * count);
  const p = arithmetic.array(n * count);
  arithmetic.transpose(count, head.d, keys, turned);
  arithmetic.gemm(n, count, head.d, queries, turned, p);
  const max = new Float64Array(n);
  const total = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const hidden = (j: number) => head.causal && keyList[j] > queryList[i];
    max[i] = -Infinity;
    for (let j = 0; j < count; j++) if (!hidden(j)) max[i] = Math.max(max[i], p[i * count + j]);
    for (let j = 0; j < count; j++) {
      const at = i * count + j;
      p[at] = hidden(j) ? 0 : Math.exp(p[at] - max[i]);
      total[i] += p[at];
    }
    for (let j = 0; j < count; j++) p[i * count + j] /= total[i] || 1;
  }
  return { p, max, total };
}

function features(arithmetic: Arithmetic, plan: HeadPlan, x: Real, d: number, n: number): Real {
  const out = arithmetic.array(plan.m * n);
  const mark = arithmetic.mark();
  const rows = 4 * Math.ceil(n / 4);
  const block = featureBlock(arithmetic, plan.features, rows);
  evaluateFeatures(arithmetic, plan.features, x, d, n, block);
  for (let f = 0; f < plan.m; f++) out.set(block.phi.subarray(f * rows, f * rows + n), f * n);
  arithmetic.release(mark);
  return out;
}

/** dS K and P V of sampled rows: dS = P (t - row mean of t under P). */
function rowProducts(
  arithmetic: Arithmetic,
  head: Head,
  p: Real,
  t: Real,
  keys: Real,
  values: Real,
  n: number,
  count: number,
) {
  const { d, dv } = head;
  const score = new Float64Array(n * d);
  const value = new Float64Array(n * dv);
  const mark = arithmetic.mark();
  const ds = arithmetic.array(n * count);
  for (let i = 0; i < n; i++) {
    let mean = 0;
    for (let j = i * count; j < (i + 1) * count; j++) mean += p[j] * t[j];
    for (let j = i * count; j < (i + 1) * count; j++) ds[j] = p[j] * (t[j] - mean);
  }
  const product = arithmetic.array(n * Math.max(d, dv));
  arithmetic.gemm(n, d, count, ds, keys, product);
  score.set(product.subarray(0, n * d));
  arithmetic.gemm(n, dv, count, p, values, product);
  value.set(product.subarray(0, n * dv));
  arithmetic.release(mark);
  return { score, value };
}

function relative(a: Float64Array, b: Float64Array): number {
  let difference = 0;
  let square = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    square += b[i] ** 2;
  }
  return square > 0 ? Math.sqrt(difference / square) : 0;
}
