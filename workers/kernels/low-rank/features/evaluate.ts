/** Evaluation of the features of features.ts on blocks of rows, in float64. */
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import type { FeatureSet } from './features.js';

/** One-dimensional values rho^(n/2) h_n(x_a) of blocks of `rows` rows. */
interface SlotTable {
  readonly rows: number;
  readonly index: Int32Array;
  readonly factor: Float64Array;
  /** (1 + slots, rows): 1, then the values. */
  readonly table: Float64Array;
}

/** Scratch for blocks of at most `rows` rows. */
export interface FeatureBlock {
  readonly rows: number;
  /** Features that are evaluated. */
  readonly size: number;
  readonly base: Int32Array;
  /** Row of the table that a feature is multiplied by. */
  readonly slot: Int32Array;
  readonly values: SlotTable;
  /** (d, rows): the coordinates, transposed. */
  readonly transposed: Real;
  /** (features, rows), feature-major. */
  readonly phi: Float64Array;
}

/** Directions and degrees of the slots: those of one direction in the order of their degree, from 1 on. */
type Slots = Pick<FeatureSet, 'slotDirection' | 'slotDegree' | 'rho'>;

export function slotTable(
  arithmetic: Arithmetic,
  { slotDirection, slotDegree, rho }: Slots,
  slots: number,
  rows: number,
): SlotTable {
  const index = new Int32Array(3 * slots);
  const factor = arithmetic.sums(2 * slots);
  // h_1 = x, h_(n+1) = (x h_n - sqrt(n) h_(n-1)) / sqrt(n + 1), each times rho^(n/2): remember where the last two of
  // a direction are.
  const last = new Int32Array(rho.length);
  const beforeLast = new Int32Array(rho.length);
  for (let s = 0; s < slots; s++) {
    const a = slotDirection[s];
    const n = slotDegree[s];
    index.set([a, last[a], beforeLast[a]], 3 * s);
    factor[2 * s] = Math.sqrt(rho[a] / n);
    factor[2 * s + 1] = (rho[a] * Math.sqrt(n - 1)) / Math.sqrt(n);
    beforeLast[a] = last[a];
    last[a] = s + 1;
  }
  return {
    rows,
    index: arithmetic.indices(index),
    factor,
    table: arithmetic.sums((1 + slots) * rows),
  };
}

/** @param transposed coordinates of the rows, (d, rows). */
export function fillSlots(
  arithmetic: Arithmetic,
  { rows, index, factor, table }: SlotTable,
  transposed: Real,
): void {
  arithmetic.featureTable(factor.length / 2, rows, index, factor, transposed, table);
}

/** Room for the first `size` features of blocks of `rows` rows, a multiple of 4. */
export function featureBlock(
  arithmetic: Arithmetic,
  features: FeatureSet,
  rows: number,
  size = features.size,
): FeatureBlock {
  // Slots appear in the order in which features need them.
  let slots = 0;
  for (let f = 1; f < size; f++) slots = Math.max(slots, features.slot[f] + 1);
  return {
    rows,
    size,
    base: arithmetic.indices(features.base.subarray(0, size)),
    slot: arithmetic.indices(features.slot.subarray(0, size).map((s) => s + 1)),
    values: slotTable(arithmetic, features, slots, rows),
    transposed: arithmetic.array(features.rho.length * rows),
    phi: arithmetic.sums(size * rows),
  };
}

/** phi (features, block.rows) of the rows x (block.rows, d); what rows past the last hold is up to x. */
export function evaluateFeatures(
  arithmetic: Arithmetic,
  x: Real,
  d: number,
  block: FeatureBlock,
): void {
  const { values, phi, rows, transposed, base, slot } = block;
  arithmetic.transpose(rows, d, x, transposed);
  fillSlots(arithmetic, values, transposed);
  phi.fill(1, 0, rows);
  arithmetic.featureProducts(base.length, rows, base, slot, values.table, phi);
}

/** Factors of x_a^2 in log g(x) = sum_a rho_a^2 x_a^2 / (2 (1 - rho_a^2)). */
export function gFactors(features: FeatureSet): Float64Array {
  return features.rho.map((r) => (r * r) / (2 * (1 - r * r)));
}

/** log c = sum_a log sqrt(1 - rho_a^2). */
export function logC(features: FeatureSet): number {
  let sum = 0;
  for (const r of features.rho) sum += 0.5 * Math.log1p(-r * r);
  return sum;
}
