/**
 * The sums of the chain at full width, direction by direction of U (or L):
 *
 *     M_c = sum_r phi_r (a_r u_rc)'     (m_c, dv)          out_rc = phi_r' M_c b_r
 *
 * with m_c features for direction c (hyperbolic-cross.ts). Every direction is a product of its own, scaled features
 * times rows of V or G: nothing of size m x dv x d is written that is not a sum.
 */
import type { Arithmetic, Packed, Real } from '../arithmetic/arithmetic.js';
import type { HyperbolicCross } from '../features/hyperbolic-cross.js';
import { BLOCK } from '../head/block.js';
import type { Head } from '../head/head.js';

export interface WideSums {
  /** sums += phi (x) rows (x) factors: phi (.., BLOCK), rows (BLOCK, dv), factors (BLOCK, d). */
  add(phi: Real, rows: Real, factors: Real, sums: Real): void;
  /** out (BLOCK, d) = phi' sums rows. */
  multiply(phi: Real, rows: Real, sums: Real, out: Real): void;
}

/** Null: nothing is needed at full width on this side. */
export function wideSums(
  arithmetic: Arithmetic,
  { d, dv }: Head,
  hyperbolicCross: HyperbolicCross | null,
): WideSums | null {
  if (!hyperbolicCross) return null;
  const { prefix } = hyperbolicCross;
  const starts = prefix.map((_, c) => prefix.subarray(0, c).reduce((a, b) => a + b, 0) * dv);
  const packed: Packed = arithmetic.pack(BLOCK, dv, arithmetic.array(BLOCK * dv));
  const transposedPacked: Packed = arithmetic.pack(dv, BLOCK, arithmetic.array(dv * BLOCK));
  const transposed = arithmetic.array(Math.max(d, dv) * BLOCK);
  const scaled = arithmetic.array(prefix[0] * BLOCK);
  const column = Array.from({ length: d }, (_, c) =>
    transposed.subarray(c * BLOCK, (c + 1) * BLOCK),
  );
  // Views cost more than small products: those of the last sums are kept.
  let [last, parts]: [Real | null, Real[]] = [null, []];
  const partsOf = (sums: Real): Real[] => {
    if (sums !== last) {
      last = sums;
      parts = Array.from(prefix, (m, c) => sums.subarray(starts[c], starts[c] + m * dv));
    }
    return parts;
  };
  return {
    add(phi, rows, factors, sums) {
      arithmetic.repack(packed, rows);
      arithmetic.transpose(BLOCK, d, factors, transposed);
      const all = partsOf(sums);
      for (let c = 0; c < d; c++) {
        arithmetic.scaleColumns(prefix[c], BLOCK, phi, column[c], scaled);
        arithmetic.product(prefix[c], scaled, packed, all[c], true);
      }
    },
    multiply(phi, rows, sums, out) {
      arithmetic.transpose(BLOCK, dv, rows, transposed);
      arithmetic.repack(transposedPacked, transposed);
      const all = partsOf(sums);
      for (let c = 0; c < d; c++) {
        arithmetic.product(prefix[c], all[c], transposedPacked, scaled);
        arithmetic.columnDots(prefix[c], BLOCK, phi, scaled, column[c]);
      }
      arithmetic.transpose(d, BLOCK, transposed, out);
    },
  };
}
