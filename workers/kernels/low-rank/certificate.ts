/**
 * The certificate: a bound on the Frobenius norm of the error of each weight gradient of a head that
 * holds for every input, the smaller of two forms.
 *
 * Moment form: the sum over queries of |left factor| times the bound of the row (certificate-queries.ts).
 * Operator form: the same sums read as products with the operator R' = diag(1/D~) R diag(sqrt w), whose
 * norm N obeys N^2 <= lambda_q lambda_k, lambda_k the largest eigenvalue of sum_j w_j psi_j psi_j' over
 * the next shell of features psi plus what is behind the shell, sum_j w_j R'(z_j, z_j); lambda_q alike
 * with weights 1/D~_i^2.
 */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { KeySide } from './certificate-keys.js';
import type { QuerySide } from './certificate-queries.js';

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
  const lambdaK = largestEigenvalue(keys.shell, unit) + keys.tail;
  const lambdaQ = largestEigenvalue(queries.shell, unit) + queries.tail;
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

/** Upper bound of the largest eigenvalue of a sum of squares (n, n), its rounding included. */
function largestEigenvalue(gram: Float64Array, unit: number): number {
  const n = Math.round(Math.sqrt(gram.length));
  if (n === 0) return 0;
  const { realEigenvalues } = new EigenvalueDecomposition(Matrix.from1DArray(n, n, gram), {
    assumeSymmetric: true,
  });
  let trace = 0;
  for (let i = 0; i < n; i++) trace += gram[i * n + i];
  // A block of the sum is rounded in each of its products: 256 units cover 128 of them twice over.
  return Math.max(...realEigenvalues, 0) + 256 * unit * trace;
}
