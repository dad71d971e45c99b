/** How far the mean keys and values of a trial's queries, rows of P K and P V, are from what their conditional mean predicts (conditional-mean.ts). */

import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import { conditionalMeanRows } from '../../error/drawn-features/conditional-mean.js';
import { times } from '../../head/affine.js';
import type { Workspace } from '../../head/workspace.js';
import type { TrialSample } from './sample.js';

/** |(P K)_i - y_i|^2 and |(P V)_i - y_i|^2 of the queries of the trial; e (n, count). */
export interface MeanSquares {
  readonly key: Float64Array;
  readonly value: Float64Array;
}

export function squaredMeans(space: Workspace, sample: TrialSample, e: Real): MeanSquares {
  const { arithmetic, head, plan } = space;
  const { key, inputsV } = plan.conditionalMean;
  const { weight, inputs } = head.value.effective;
  const slopes = new Float64Array((inputsV.length / inputs) * head.dv);
  for (let a = 0; a * inputs < inputsV.length; a++) {
    arithmetic.checkpoint();
    slopes.set(times(inputsV.subarray(a * inputs, (a + 1) * inputs), weight, head.dv), a * head.dv);
  }
  const mark = arithmetic.mark();
  const p = rowsAndMean(arithmetic, sample, e);
  const { x, load } = conditionalMeanRows(space, sample.queries.count);
  load(sample.queries);
  const squares = (rows: Real, b: Float64Array) => meanSquares(space, sample, p, rows, x, b);
  const value = squares(sample.keys.v, slopes);
  if (head.kind === 'target') {
    // G - G~ = O - O~ adds its product with the mean of the values.
    const centre = plan.centreV.reduce((sum, c) => sum + c * c, 0);
    for (let i = 0; i < value.length; i++) value[i] += centre;
  }
  const result = { key: squares(sample.keys.k, key), value };
  arithmetic.release(mark);
  return result;
}

/** At least this share of the square is left, however large the scatter is. */
const LEAST = 0.02;

/** Rows of P from e (n, count), whose columns weigh differently, and behind them the mean of all keys (n + 1, count). */
function rowsAndMean(arithmetic: Arithmetic, { queries, keyWeight }: TrialSample, e: Real): Real {
  const count = keyWeight.length;
  const p = arithmetic.array((queries.count + 1) * count);
  for (let i = 0; i <= queries.count; i++) {
    arithmetic.checkpoint();
    let total = 0;
    for (let j = 0; j < count; j++) {
      p[i * count + j] = keyWeight[j] * (i < queries.count ? e[i * count + j] : 1);
      total += p[i * count + j];
    }
    for (let j = 0; j < count; j++) p[i * count + j] /= total || 1;
  }
  return p;
}

/**
 * |(P X)_i - y_i|^2 for rows x (count, width) and p of rowsAndMean, where y_i = predicted_i slopes; slopes (d, width), or empty: y = 0.
 * The mean over the keys of the sample stands for that over all keys. It scatters more, as a mean of few keys does; the expected excess is
 * subtracted.
 */
function meanSquares(
  { arithmetic, head }: Workspace,
  { queries, keyWeight }: TrialSample,
  p: Real,
  x: Real,
  predicted: Real,
  slopes: Float64Array,
): Float64Array {
  const { d } = head;
  const count = keyWeight.length;
  const n = queries.count;
  const width = x.length / count;
  const mark = arithmetic.mark();
  const product = arithmetic.array((n + 1) * width);
  arithmetic.gemm(n + 1, width, count, p, x, product);
  const y = arithmetic.array(n * width);
  if (slopes.length > 0) {
    const matrix = arithmetic.array(d * width);
    matrix.set(slopes);
    arithmetic.gemm(n, width, d, predicted, matrix, y);
  }
  const norms = arithmetic.array(count);
  arithmetic.rowDots(count, width, x, x, norms);
  const missing = 1 - count / head.keyLength;
  const squares = Float64Array.from({ length: n }, (_, i) => {
    arithmetic.checkpoint();
    let [sum, scatter] = [0, 0];
    for (let a = 0; a < width; a++) {
      sum += (product[i * width + a] - product[n * width + a] - y[i * width + a]) ** 2;
    }
    for (let j = 0; j < count; j++) {
      scatter += (p[i * count + j] - p[n * count + j]) ** 2 * norms[j];
    }
    return Math.max(sum - missing * scatter, LEAST * sum);
  });
  arithmetic.release(mark);
  return squares;
}
