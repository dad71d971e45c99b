/**
 * The coordinates and the outliers of one head.
 *
 * A handful of rows with large norms (attention sinks, massive activations) would ruin every polynomial,
 * so the rows with the largest |x^|^2 = sum_a sigma_a x_a^2, the size of the logits they can make, are put
 * aside and treated exactly. The coordinates come from a sample without them.
 */

import type { Cancelled } from '../job.js';
import { type ComposedNorms, ZERO_NORMS } from '../norms.js';
import type { Arithmetic, Packed, Real } from './arithmetic.js';
import { type Balance, balance, covariance, mean } from './balance.js';
import { type FeatureSet, selectFeatures } from './features.js';
import type { Affine, Head, HeadProjection } from './head.js';
import type { HeadPlan } from './head-plan.js';
import type { Segment } from './layout.js';
import { take } from './queries.js';
import { Random } from './random.js';
import { BLOCK, keyRows, openWorkspace, queryRows } from './rows.js';
import { checkpoint } from './run.js';

/** Rows that the covariances are taken from: their error only costs a little of the balance. */
const SAMPLE = 1024;

export interface Basis {
  readonly balance: Balance;
  readonly centreXK: Float64Array;
  readonly centreXV: Float64Array;
}

/** Balance of a head with a share of the rows of both sides put aside. */
export function sampleBasis(
  arithmetic: Arithmetic,
  head: Head,
  outlierShare: number,
  seed: number,
): Basis {
  const random = new Random(seed);
  const { d, query, key, value } = head;
  const queryList = random.sample(head.queryLength, SAMPLE);
  const keyList = random.sample(head.keyLength, SAMPLE);
  const mark = arithmetic.mark();
  const q = project(arithmetic, query.rows, query.effective, queryList);
  const k = project(arithmetic, key.rows, key.effective, keyList);
  const bulk = outlierShare > 0 ? withoutOutliers(arithmetic, q, k, d, outlierShare) : { q, k };
  const result = balance(bulk.q, bulk.k, d, head.beta);
  arithmetic.release(mark);
  return {
    balance: result,
    centreXK: meanRow(key.rows, key.effective.inputs, keyList),
    centreXV: meanRow(value.rows, value.effective.inputs, keyList),
  };
}

function project(arithmetic: Arithmetic, rows: Real, map: Affine, list: Int32Array): Real {
  const { inputs, outputs } = map;
  const x = arithmetic.array(list.length * inputs);
  list.forEach((row, r) => {
    x.set(rows.subarray(row * inputs, (row + 1) * inputs), r * inputs);
  });
  const weight = arithmetic.array(inputs * outputs);
  weight.set(map.weight);
  const y = arithmetic.array(list.length * outputs);
  for (let r = 0; r < list.length; r++) y.set(map.bias, r * outputs);
  arithmetic.gemm(list.length, outputs, inputs, x, weight, y, true);
  return y;
}

function meanRow(rows: Real, width: number, list: Int32Array): Float64Array {
  const mean = new Float64Array(width);
  for (const row of list) {
    for (let a = 0; a < width; a++) mean[a] += rows[row * width + a] / list.length;
  }
  return mean;
}

/** sum_a sigma_a x_a^2 of row i of x (n, d), balanced. */
export function logitNorm(x: Real, d: number, sigma: Float64Array, i: number): number {
  let sum = 0;
  for (let a = 0; a < d; a++) sum += sigma[a] * x[i * d + a] * x[i * d + a];
  return sum;
}

/**
 * Both samples without the given share of rows: a query is judged by the variance of its logits over
 * the keys, (q - c)'C_k (q - c), and a key likewise, which needs no balance yet.
 */
function withoutOutliers(
  arithmetic: Arithmetic,
  q: Real,
  k: Real,
  d: number,
  share: number,
): { q: Real; k: Real } {
  const [cq, ck] = [covariance(q, d, mean(q, d)), covariance(k, d, mean(k, d))];
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
): Real {
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

/** A plan without outliers, its weights not yet scaled. */
export function draftPlan(head: Head, basis: Basis, m: number, shell: number): HeadPlan {
  const features: FeatureSet = selectFeatures(basis.balance.sigma, m + shell);
  const { value } = head;
  const { weight, bias, inputs } = value.effective;
  const times = (row: Float64Array, matrix: Float64Array, outputs: number) => {
    const out = new Float64Array(outputs);
    for (let a = 0; a < inputs; a++) {
      for (let c = 0; c < outputs; c++) out[c] += row[a] * matrix[a * outputs + c];
    }
    return out;
  };
  return {
    balance: basis.balance,
    m: Math.min(m, features.size),
    features,
    outlierQueries: new Int32Array(0),
    outlierKeys: new Int32Array(0),
    logWeightShift: 0,
    centreV: times(basis.centreXV, weight, head.dv).map((x, a) => x + bias[a]),
    centreXK: basis.centreXK,
    centreXV: basis.centreXV,
    centreVA: times(basis.centreXV, value.down, value.rank),
  };
}

/** Logit norms of the rows of a segment, and log w_j of its keys; one entry per row. */
export interface RowScan {
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly logWeight: Float32Array;
}

export function openScan(head: Head): RowScan {
  const shared = (n: number) => new Float32Array(new SharedArrayBuffer(4 * n));
  return {
    query: shared(head.queryLength),
    key: shared(head.keyLength),
    logWeight: shared(head.keyLength),
  };
}

export function scanRows(
  arithmetic: Arithmetic,
  head: Head,
  plan: HeadPlan,
  { from, to }: Segment,
  scan: RowScan,
  cancelled: Cancelled,
): ComposedNorms {
  const norms = { ...ZERO_NORMS };
  const space = openWorkspace(arithmetic, head, plan);
  const { sigma } = plan.balance;
  const queries = queryRows(space, BLOCK);
  const keys = keyRows(space, BLOCK);
  const adapter = arithmetic.array(BLOCK * head.d);
  const [upQ, upK] = [head.query, head.key].map(({ up, rank }) =>
    arithmetic.pack(rank, head.d, turned(up, head.d, rank)),
  );
  const low = arithmetic.array(BLOCK * Math.max(head.query.rank, head.key.rank));
  const downK = arithmetic.array(head.key.down.length);
  downK.set(head.key.down);
  const p = head.query.rank + head.key.rank;
  const root = Math.sqrt(head.beta);
  for (let start = from; start < Math.min(to, head.queryLength); start += BLOCK) {
    checkpoint(cancelled);
    queries.load((r) => start + r, Math.min(BLOCK, to - start, head.queryLength - start));
    for (let r = 0; r < queries.count; r++) {
      scan.query[start + r] = logitNorm(queries.x, head.d, sigma, r);
    }
    take(queries.count, queries.l, p, 0, head.query.rank, low);
    const parts = composed(
      arithmetic,
      head.query,
      queries.count,
      queries.q,
      null,
      low,
      upQ,
      adapter,
    );
    norms.query = Math.max(norms.query, root * parts.sum);
    norms.query_frozen = Math.max(norms.query_frozen, root * parts.frozen);
    norms.query_adapter = Math.max(norms.query_adapter, root * parts.adapter);
  }
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    keys.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    for (let r = 0; r < keys.count; r++) {
      scan.key[start + r] = logitNorm(keys.z, head.d, sigma, r);
      scan.logWeight[start + r] = keys.logWeight[r];
    }
    const { centreK } = plan.balance;
    arithmetic.gemm(keys.count, head.key.rank, head.key.effective.inputs, keys.xk, downK, low);
    const parts = composed(arithmetic, head.key, keys.count, keys.k, centreK, low, upK, adapter);
    norms.key = Math.max(norms.key, root * parts.sum);
    norms.key_frozen = Math.max(norms.key_frozen, root * parts.frozen);
    norms.key_adapter = Math.max(norms.key_adapter, root * parts.adapter);
    for (let i = 0; i < keys.count * head.dv; i++) {
      norms.value = Math.max(norms.value, Math.abs(keys.v[i] + plan.centreV[i % head.dv]));
    }
  }
  return norms;
}

/** (columns, rows) = transpose of x (rows, columns). */
function turned(x: Float64Array, rows: number, columns: number): Float64Array {
  return x.map((_, i) => x[(i % rows) * columns + Math.floor(i / rows)]);
}

/** Largest entries of s (X A') B', of the frozen part and of their sum y (n, d), given without its centre. */
function composed(
  arithmetic: Arithmetic,
  projection: HeadProjection,
  n: number,
  y: Real,
  centre: Float64Array | null,
  low: Real,
  up: Packed,
  scratch: Real,
): { sum: number; frozen: number; adapter: number } {
  const d = projection.effective.outputs;
  const result = { sum: 0, frozen: 0, adapter: 0 };
  if (projection.rank > 0) arithmetic.product(n, low, up, scratch);
  for (let i = 0; i < n * d; i++) {
    const sum = y[i] + (centre ? centre[i % d] : 0);
    const adapter = projection.rank > 0 ? projection.adapterScaling * scratch[i] : 0;
    result.sum = Math.max(result.sum, Math.abs(sum));
    result.frozen = Math.max(result.frozen, Math.abs(sum - adapter));
    result.adapter = Math.max(result.adapter, Math.abs(adapter));
  }
  return result;
}

/** The plan with its outliers, the rows of largest logit norm, and the largest remaining weight at 1. */
export function putAside(
  draft: HeadPlan,
  scan: RowScan,
  outlierQueries: number,
  outlierKeys: number,
): HeadPlan {
  const keys = largest(scan.key, outlierKeys);
  const aside = new Set(keys);
  let shift = -Infinity;
  scan.logWeight.forEach((w, j) => {
    if (w > shift && !aside.has(j)) shift = w;
  });
  return {
    ...draft,
    outlierQueries: largest(scan.query, outlierQueries),
    outlierKeys: keys,
    logWeightShift: shift === -Infinity ? 0 : shift,
  };
}

/** Positions of the n largest values, in rising order; among equals the earlier ones. */
function largest(values: Float32Array, n: number): Int32Array {
  if (n <= 0) return new Int32Array(0);
  const limit = values.slice().sort()[Math.max(0, values.length - n)];
  const above: number[] = [];
  const equal: number[] = [];
  values.forEach((x, i) => {
    if (x > limit) above.push(i);
    else if (x === limit) equal.push(i);
  });
  return Int32Array.from([...above, ...equal.slice(0, n - above.length)]).sort();
}
