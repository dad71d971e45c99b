/** What the query side of the certificate adds up over the rows: certificate-queries.ts. */
import { NORMS } from '../../head/layout.js';

/** Sums over the queries for one gradient tensor; l is its left factor, V_i bounds sum_j P_ij |u_j|^2. */
interface TensorSums {
  /** Sum of the row bounds: the moment form. */
  rows: number;
  /** Rounding of the last product, sum_i l_i (x) y_i. */
  rounding: number;
  /** |l|^2 times |G|^2, (G.O)^2, V |G|^2, V (G.O)^2, bound of |y|^2; 1, V for the value tensors. */
  gradient: number;
  shift: number;
  gradientSpread: number;
  shiftSpread: number;
  product: number;
  left: number;
  leftSpread: number;
  /** What h_i is multiplied by, squared, and the same times the bound of sum_j P_ij |v_j|^2. */
  objective: number;
  objectiveSpread: number;
}

export interface QuerySide {
  /** Some row may have lost its sum altogether: no bound. */
  void: boolean;
  readonly tensors: readonly TensorSums[];
  readonly nextFeatures: Float64Array;
  beyond: number;
}

const emptySums = (): TensorSums => ({
  rows: 0,
  rounding: 0,
  gradient: 0,
  shift: 0,
  gradientSpread: 0,
  shiftSpread: 0,
  product: 0,
  left: 0,
  leftSpread: 0,
  objective: 0,
  objectiveSpread: 0,
});

export const openQuerySide = (nextFeatures: Float64Array): QuerySide => ({
  void: false,
  tensors: Array.from({ length: NORMS - 1 }, emptySums),
  nextFeatures,
  beyond: 0,
});

/** What is known of one row. */
export interface RowBound {
  /** Bounds of |y_i - y~_i| for each tensor, and of |h_i| for a target. */
  readonly bounds: readonly number[];
  readonly objective: number;
  /** Bounds of sum_j P_ij |u_j|^2, sum_j P_ij |v_j|^2 and sum_j P_ij t_ij^2. */
  readonly spreads: readonly number[];
  readonly spreadV: number;
  readonly tSquares: number;
  readonly g2: number;
  readonly shift2: number;
  readonly error: number;
  readonly centres: readonly number[];
  readonly lift: readonly number[];
  readonly finite: boolean;
}

/** @param left squares of the left factors of the tensors. */
export function addRow(
  side: QuerySide,
  target: boolean,
  row: RowBound,
  left: readonly number[],
): void {
  row.bounds.forEach((bound, t) => {
    const sums = side.tensors[t];
    const l2 = left[t];
    const l = Math.sqrt(l2);
    const v = row.spreads[t];
    if (t < 4) {
      const product = row.tSquares * v;
      sums.rows += l * bound;
      // t = G.(v - O) is rounded in proportion to |G| |v|, however small it is; G = O - Y to |O|.
      const terms = Math.sqrt(row.g2 * row.spreadV) + (target ? row.spreadV : 0);
      sums.rounding += 4 * row.error * l * Math.sqrt(v) * terms;
      sums.gradient += l2 * row.g2;
      sums.shift += l2 * row.shift2;
      sums.gradientSpread += l2 * v * row.g2;
      sums.shiftSpread += l2 * v * row.shift2;
      sums.product += l2 * product;
      if (target) {
        sums.rows += l * row.objective * Math.sqrt(v * row.spreadV);
        sums.objective += l2 * v * row.spreadV;
        sums.objectiveSpread += l2 * v * row.spreadV * row.spreadV;
      }
      return;
    }
    const size = row.centres[t - 4] + Math.sqrt(v);
    sums.rows += l * bound;
    sums.rounding += 4 * row.error * l * size;
    sums.left += l2;
    sums.leftSpread += l2 * v;
    if (target) {
      const reach = row.lift[t - 4] * size;
      sums.rows += row.objective * reach;
      sums.objective += reach * reach;
      sums.objectiveSpread += reach * reach * row.spreadV;
    }
  });
  if (!row.finite) side.void = true;
}

export function joinQuerySides(sides: readonly QuerySide[]): QuerySide {
  return sides.reduce((a, b) => ({
    void: a.void || b.void,
    tensors: a.tensors.map((sums, t) => {
      const other = b.tensors[t];
      const keys = Object.keys(sums) as (keyof TensorSums)[];
      return Object.fromEntries(keys.map((k) => [k, sums[k] + other[k]])) as unknown as TensorSums;
    }),
    nextFeatures: a.nextFeatures.map((x, i) => x + b.nextFeatures[i]),
    beyond: a.beyond + b.beyond,
  }));
}
