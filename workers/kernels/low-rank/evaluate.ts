/** Evaluation of the features of features.ts on blocks of rows, in float64. */
import type { Arithmetic, Real } from './arithmetic.js';
import type { FeatureSet } from './features.js';

/** Scratch for blocks of at most `rows` rows. */
export interface FeatureBlock {
  readonly rows: number;
  readonly base: Int32Array;
  readonly slot: Int32Array;
  /** (slots, rows): the one-dimensional values. */
  readonly table: Float64Array;
  /** (features, rows), feature-major. */
  readonly phi: Float64Array;
}

export function featureBlock(
  arithmetic: Arithmetic,
  features: FeatureSet,
  rows: number,
): FeatureBlock {
  return {
    rows,
    base: arithmetic.indices(features.base),
    slot: arithmetic.indices(features.slot),
    table: arithmetic.sums(features.slotDirection.length * rows),
    phi: arithmetic.sums(features.size * rows),
  };
}

/**
 * phi (features, count) of the rows x (count, d), with row stride block.rows.
 *
 * h_0 = 1, h_1 = x, h_(n+1) = (x h_n - sqrt(n) h_(n-1)) / sqrt(n + 1), each times rho^(n/2).
 */
export function evaluateFeatures(
  arithmetic: Arithmetic,
  features: FeatureSet,
  x: Real,
  d: number,
  count: number,
  block: FeatureBlock,
): void {
  const { slotDirection, slotDegree, rho } = features;
  const { table, phi, rows } = block;
  const slots = slotDirection.length;
  // Slots of one direction appear in the order of their degree: remember where the last two are.
  const last = new Int32Array(rho.length).fill(-1);
  const beforeLast = new Int32Array(rho.length).fill(-1);
  for (let s = 0; s < slots; s++) {
    const a = slotDirection[s];
    const n = slotDegree[s];
    const root = Math.sqrt(rho[a]);
    const to = s * rows;
    if (n === 1) {
      for (let i = 0; i < count; i++) table[to + i] = root * x[i * d + a];
    } else {
      const up = root / Math.sqrt(n);
      const down = (rho[a] * Math.sqrt(n - 1)) / Math.sqrt(n);
      const one = last[a] * rows;
      const two = beforeLast[a] * rows;
      for (let i = 0; i < count; i++) {
        const h2 = n === 2 ? 1 : table[two + i];
        table[to + i] = up * x[i * d + a] * table[one + i] - down * h2;
      }
    }
    beforeLast[a] = last[a];
    last[a] = s;
  }
  phi.fill(1, 0, count);
  arithmetic.featureProducts(rows, block.base, block.slot, table, phi);
}

/** log g(x) = sum_a rho_a^2 x_a^2 / (2 (1 - rho_a^2)) of row i of x (count, d). */
export function logG(features: FeatureSet, x: Real, d: number, i: number): number {
  const { rho } = features;
  let sum = 0;
  for (let a = 0; a < d; a++) {
    const r2 = rho[a] * rho[a];
    sum += (r2 / (2 * (1 - r2))) * x[i * d + a] * x[i * d + a];
  }
  return sum;
}

/** log c = sum_a log sqrt(1 - rho_a^2). */
export function logC(features: FeatureSet): number {
  let sum = 0;
  for (const r of features.rho) sum += 0.5 * Math.log1p(-r * r);
  return sum;
}

/** k(x, x) = exp(sum_a x_a^2 rho_a / (1 + rho_a)) / c: the whole kernel on its diagonal, row i of x. */
export function diagonal(features: FeatureSet, x: Real, d: number, i: number): number {
  const { rho } = features;
  let sum = -logC(features);
  for (let a = 0; a < d; a++) sum += (rho[a] / (1 + rho[a])) * x[i * d + a] * x[i * d + a];
  return Math.exp(sum);
}

/** |phi(x)|^2 over the features [from, to) for row i of an evaluated block. */
export function squaredNorm(block: FeatureBlock, from: number, to: number, i: number): number {
  let sum = 0;
  for (let f = from; f < to; f++) sum += block.phi[f * block.rows + i] ** 2;
  return sum;
}
