/**
 * The certificate: a bound on the Frobenius norm of the error of each weight gradient of a head that
 * holds for every input, the smaller of two forms.
 *
 * Moment form: the sum over queries of |left factor| times the bound of the row (certificate-queries.ts).
 * Operator form: the same sums read as products with the operator R' = diag(1/D~) R diag(sqrt w), whose
 * norm N obeys N^2 <= lambda_q lambda_k, lambda_k the largest eigenvalue of sum_j w_j psi_j psi_j' over
 * the next features psi plus what is behind those, sum_j w_j R'(z_j, z_j); lambda_q alike
 * with weights 1/D~_i^2.
 */
import type { KeySide } from './certificate-keys.js';
import type { QuerySide } from './query-side.js';

/** Room for the rounding of the float64 sums themselves. */
const SLACK = 1 + 2 ** -20;

/** Bounds of the six tensors, before their scale; null when there is no bound. */
export function certificate(
  keys: KeySide,
  queries: QuerySide,
  target: boolean,
  unit: number,
): (number | null)[] {
  if (queries.void) return queries.tensors.map(() => null);
  const lambdaK = atMost(keys.nextFeatures, unit) + keys.beyond;
  const lambdaQ = atMost(queries.nextFeatures, unit) + queries.beyond;
  const norm = Math.sqrt(lambdaK * lambdaQ);
  const { weight, products } = keys;
  const root = Math.sqrt;
  return queries.tensors.map((sums, t) => {
    const u = weight.norms[t + 1];
    const v = weight.norms[0];
    let operator: number;
    if (t < 4) {
      operator =
        root(sums.gradient * products[t]) +
        root(sums.shift * u) +
        root(sums.gradientSpread * v) +
        root(sums.shiftSpread * weight.total) +
        root(sums.product * weight.total);
    } else {
      operator = root(sums.left * u) + root(sums.leftSpread * weight.total);
    }
    if (target) operator += root(sums.objective * v) + root(sums.objectiveSpread * weight.total);
    const bound = SLACK * (Math.min(sums.rows, norm * operator) + sums.rounding);
    return Number.isFinite(bound) ? bound : null;
  });
}

/** Steps of the power iteration, and of the search upwards from where it ends. */
const ITERATIONS = 16;
const CLOSE = 1.02;

/** Upper bound of the largest eigenvalue of a sum of squares (n, n), its rounding included. */
function atMost(gram: Float64Array, unit: number): number {
  const n = order(gram);
  let trace = 0;
  for (let i = 0; i < n; i++) trace += gram[i * n + i];
  if (!(trace > 0)) return trace;
  // A power iteration comes from below; that bound I - gram has a Cholesky factor proves the bound.
  let bound = CLOSE * rayleigh(gram);
  while (bound < trace && !isBelow(gram, n, bound)) bound *= CLOSE;
  // A block of the sum is rounded in each of its products: 256 units cover 128 of them twice over.
  return Math.min(bound, trace) + 256 * unit * trace;
}

const order = (gram: Float64Array) => Math.round(Math.sqrt(gram.length));

/** A lower bound of the largest eigenvalue of gram (n, n); NaN for zeros. */
function rayleigh(gram: Float64Array): number {
  const n = order(gram);
  const x = Float64Array.from({ length: n }, (_, i) => Math.sqrt(Math.max(0, gram[i * n + i])));
  const y = new Float64Array(n);
  let value = 0;
  for (let k = 0; k < ITERATIONS; k++) {
    let [size, dot, largest] = [0, 0, 0];
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let j = 0; j < n; j++) sum += gram[i * n + j] * x[j];
      y[i] = sum;
      size += x[i] * x[i];
      dot += x[i] * sum;
      largest = Math.max(largest, Math.abs(sum));
    }
    value = dot / size;
    for (let i = 0; i < n; i++) x[i] = y[i] / largest;
  }
  return value;
}

/** Whether bound I - gram (n, n) is positive definite: whether its Cholesky factor exists. */
function isBelow(gram: Float64Array, n: number, bound: number): boolean {
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = (i === j ? bound : 0) - gram[i * n + j];
      for (let k = 0; k < j; k++) sum -= factor[i * n + k] * factor[j * n + k];
      if (j < i) factor[i * n + j] = sum / factor[j * n + j];
      else if (sum > 0) factor[i * n + i] = Math.sqrt(sum);
      else return false;
    }
  }
  return true;
}
