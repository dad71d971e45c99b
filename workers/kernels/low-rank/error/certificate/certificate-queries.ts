/**
 * Query side of the certificate: a bound on every row of the row products, and what the operator form
 * needs. With R the kernel that the features leave out, R_ij = R(x_i, z_j), t~_ij = G_i.(v_j - O~_i),
 * y_i = (dS U)_i, and any centre of u, exactly
 *
 *     D~_i (y_i - y~_i) = sum_j R_ij w_j t~_ij u_j - (sum_j R_ij w_j t~_ij) (P u)_i - (sum_j R_ij w_j) y_i
 *     D~_i ((P u)_i - (P~ u)_i) = sum_j R_ij w_j u_j - (sum_j R_ij w_j) (P u)_i
 *
 * (rows of dS, dS~ sum to zero, rows of P, P~ to one). A target adds h_i = G_i - G~_i = O_i - O~_i.
 */

import type { Real } from '../../arithmetic/arithmetic.js';
import type { DenseColumns } from '../../chain/dense.js';
import type { QueryBlock } from '../../chain/queries/query-block.js';
import { BLOCK } from '../../head/block.js';
import { type Layout, NORMS } from '../../head/layout.js';
import { leftNorms, squaredNorms } from '../../head/norms.js';
import type { Workspace } from '../../head/workspace.js';
import {
  type KeySide,
  NextFeaturesGram,
  type Residuals,
  residuals,
  rounding,
} from './certificate-keys.js';
import { addRow, openQuerySide, type QuerySide, type RowBound } from './query-side.js';

const norm2 = (x: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  return sum;
};

export class QueryCertificate {
  readonly side: QuerySide;
  readonly #keys: KeySide;
  readonly #nextFeatures: NextFeaturesGram;
  readonly #shellBlock: Real;
  readonly #secondRest: Real;
  readonly #secondWhole: Real;
  readonly #productRest: Real;
  readonly #productWhole: Real;
  readonly #spread: Real;
  readonly #residuals: (x: Real, count: number) => Residuals;
  /** |centre| of u for the value tensors, and what maps h_i to the change of their left factor. */
  readonly #centres: readonly number[];
  readonly #lift: readonly number[];

  constructor(space: Workspace, keys: KeySide) {
    const { arithmetic, head, plan } = space;
    const { dv } = head;
    const m2 = plan.features.size - plan.m;
    this.#keys = keys;
    this.#residuals = residuals(space);
    this.#nextFeatures = new NextFeaturesGram(space);
    this.#shellBlock = arithmetic.array(m2 * m2);
    this.#secondRest = arithmetic.array(dv * dv);
    this.#secondRest.set(keys.rest.second);
    this.#secondWhole = arithmetic.array(dv * dv);
    this.#secondWhole.set(keys.whole.second);
    this.#productRest = arithmetic.array(BLOCK * dv);
    this.#productWhole = arithmetic.array(BLOCK * dv);
    this.#spread = arithmetic.array(BLOCK * NORMS);
    this.#centres = [Math.sqrt(norm2(plan.centreXV)), Math.sqrt(norm2(plan.centreVA))];
    this.#lift = [Math.sqrt(norm2(head.value.up)), 1];
    this.side = openQuerySide(arithmetic.sums(m2 * m2));
  }

  add(space: Workspace, at: Layout, block: QueryBlock, dense: readonly DenseColumns[]): void {
    const { arithmetic, head } = space;
    const { dv } = head;
    const { rows, gradient, gradientB } = block;
    const n = rows.count;
    arithmetic.gemm(n, dv, dv, gradient, this.#secondRest, this.#productRest);
    arithmetic.gemm(n, dv, dv, gradient, this.#secondWhole, this.#productWhole);
    const { spread, squares } = this.#denseSpread(space, at, block, dense);
    const residual = this.#residuals(rows.x, n);
    const weight = new Float64Array(BLOCK);
    for (let r = 0; r < n; r++) {
      if (block.inverse[r] === 0) continue;
      const row = this.#row(space, at, block, r, residual, spread, squares[r]);
      const scale = block.factor[r] * block.inverse[r];
      weight[r] = scale;
      if (row === null) {
        this.side.void = true;
        return;
      }
      this.side.beyond += scale * scale * residual.behind[r];
      const left = leftNorms(space, rows, gradient, gradientB, r);
      addRow(this.side, head.kind === 'target', row, left);
    }
    this.#nextFeatures.add(weight, this.#shellBlock, this.side.nextFeatures);
  }

  /** sum_j P~_ij |.|^2 over all columns (BLOCK, NORMS), and sum_j P~_ij t~_ij^2 over the exact ones. */
  #denseSpread(space: Workspace, at: Layout, block: QueryBlock, dense: readonly DenseColumns[]) {
    const { arithmetic } = space;
    const { rows, products, factor, inverse } = block;
    const spread = this.#spread;
    const squares = new Float64Array(rows.count);
    for (let r = 0; r < rows.count; r++) {
      const scale = factor[r] * inverse[r];
      for (let t = 0; t < NORMS; t++) {
        spread[r * NORMS + t] = scale * Math.max(0, products[r * at.keyWidth + at.atNorms + t]);
      }
    }
    for (const { count, keys, rows: columns } of dense) {
      const { e, ds } = columns!;
      const mark = arithmetic.mark();
      const norms = squaredNorms(space, keys);
      const right = arithmetic.array(count * NORMS);
      for (let j = 0; j < count; j++) {
        for (let t = 0; t < NORMS; t++) right[j * NORMS + t] = norms[t][j];
      }
      arithmetic.gemm(rows.count, NORMS, count, e, right, spread, true);
      arithmetic.release(mark);
      for (let r = 0; r < rows.count; r++) {
        for (let i = r * count; i < (r + 1) * count; i++) {
          if (e[i] > 0) squares[r] += (ds[i] / e[i]) * ds[i];
        }
      }
    }
    return { spread, squares };
  }

  #row(
    space: Workspace,
    at: Layout,
    block: QueryBlock,
    r: number,
    residual: Residuals,
    spread: Real,
    denseSquares: number,
  ): RowBound | null {
    const { dv } = space.head;
    const { rest, whole } = this.#keys;
    const { gradient, output, products, factor, inverse } = block;
    const left = { rest: residual.rest[r], whole: residual.whole[r] };
    const error = rounding(space);
    // 1 / D~ in the units of phi.phi w, and the share of the row that the error can reach.
    const scale = factor[r] * inverse[r];
    const root = Math.sqrt(left.rest) * scale;
    const reach = root * rest.total;
    if (!(scale >= 0 && reach < 1)) return null;
    const grow = 1 / (1 - reach);
    const rootWhole = Math.sqrt(left.whole) * scale * grow;
    let [g2, o2, firstRest, firstWhole, restV] = [0, 0, 0, 0, 0];
    let [quadraticRest, quadraticWhole] = [0, 0];
    for (let a = 0; a < dv; a++) {
      const i = r * dv + a;
      g2 += gradient[i] ** 2;
      o2 += output[i] ** 2;
      firstRest += gradient[i] * rest.first[a];
      firstWhole += gradient[i] * whole.first[a];
      restV += output[i] * rest.first[a];
      quadraticRest += gradient[i] * this.#productRest[i];
      quadraticWhole += gradient[i] * this.#productWhole[i];
    }
    const shift = block.shift[r];
    // sum of weight (G.v - G.O~)^2, with the rounding of its own terms on the safe side.
    const about = (moments: typeof rest, quadratic: number, first: number) => {
      const terms = g2 * moments.norms[0] + moments.total * shift * shift;
      return (
        Math.max(0, quadratic - 2 * shift * first + moments.total * shift * shift) +
        4 * error * terms
      );
    };
    const restSquares = about(rest, quadraticRest, firstRest);
    const spreadOf = (t: number) =>
      grow *
      (spread[r * NORMS + t] * (1 + error) +
        root * rest.norms[t] +
        error * Math.sqrt(left.whole) * scale * whole.norms[t]);
    const spreadV = spreadOf(0);
    const tSquares = Math.min(
      g2 * spreadV,
      rootWhole * about(whole, quadraticWhole, firstWhole) + grow * (1 + error) * denseSquares,
    );
    const around =
      Math.max(0, rest.norms[0] - 2 * restV + rest.total * o2) +
      4 * error * (rest.norms[0] + rest.total * o2);
    const spreads = Array.from({ length: NORMS - 1 }, (_, t) => spreadOf(t + 1));
    const bounds = spreads.map((v, t) => {
      const own = rest.norms[t + 1];
      if (t >= 4) return root * (Math.sqrt(rest.total * own) + rest.total * Math.sqrt(v));
      const cross = Math.sqrt(restSquares) * (Math.sqrt(own) + Math.sqrt(rest.total * v));
      return root * (cross + rest.total * Math.sqrt(tSquares * v));
    });
    return {
      bounds,
      spreads,
      spreadV,
      g2,
      shift2: shift * shift,
      tSquares,
      objective: root * grow * Math.sqrt(rest.total * around),
      error,
      centres: this.#centres,
      lift: this.#lift,
      finite: Number.isFinite(products[r * at.keyWidth]),
    };
  }
}
