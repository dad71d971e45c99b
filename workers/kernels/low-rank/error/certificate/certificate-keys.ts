/**
 * Key side of the certificate: moments of the keys weighted by what the features leave out of them.
 *
 * All coefficients of Mehler's expansion are positive, so the rest R = k - phi.phi is a positive
 * semidefinite kernel and |R(x, z)| <= sqrt(R(x, x) R(z, z)) (Cauchy-Schwarz). Sums over keys of
 * w_j |R_ij| f_j are then bounded by sqrt(R(x_i, x_i)) times moments of omega_j = w_j sqrt(R(z_j, z_j)).
 */
import { type Arithmetic, type Real, ROUNDOFF } from '../../arithmetic/arithmetic.js';
import { logC } from '../../features/evaluate.js';
import { BLOCK } from '../../head/block.js';
import { NORMS } from '../../head/layout.js';
import { squaredNorms } from '../../head/norms.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';

/** Sums over keys under one weight: total, of the squared norms, of v and of v v'. */
interface Moments {
  total: number;
  readonly norms: Float64Array;
  readonly first: Float64Array;
  readonly second: Float64Array;
}

export interface KeySide {
  /** omega_j = w_j sqrt(R(z_j, z_j)) */
  readonly rest: Moments;
  /** w_j sqrt(k(z_j, z_j)), which bounds P itself. */
  readonly whole: Moments;
  /** w_j; first and second moments are not used. */
  readonly weight: Moments;
  /** sum_j w_j |v_j|^2 |u_j|^2 for the six u. */
  readonly products: Float64Array;
  /** sum_j w_j psi_j psi_j' over the next features, behind those used, and what is behind it. */
  readonly nextFeatures: Float64Array;
  beyond: number;
}

/**
 * Rounding of one block product relative to the sum of absolute values, with room for the products
 * that made the coordinates. Added to R(x, x) as this share of k(x, x), it covers rounding by the same
 * Cauchy-Schwarz inequality that covers the missing features.
 */
export function rounding(space: Workspace): number {
  const { head } = space;
  const inner = head.query.effective.inputs + head.key.effective.inputs + 2 * head.d;
  return ROUNDOFF * (BLOCK + inner);
}

/** One entry for each row of a block. */
export interface Residuals {
  /** R(x, x) = k(x, x) - |phi(x)|^2, and k(x, x). */
  readonly rest: Float64Array;
  readonly whole: Float64Array;
  /** R(x, x) behind those. */
  readonly behind: Float64Array;
}

/**
 * The residuals of the rows of a block whose features stand evaluated in the workspace, rounding on the
 * safe side: an error of the coordinates moves the logit by at most its share of |x^| |z^|.
 */
export function residuals(space: Workspace): (x: Real, count: number) => Residuals {
  const { arithmetic, head, plan, features } = space;
  const { rho, sigma, size } = plan.features;
  const constant = logC(plan.features);
  const error = rounding(space);
  const none = arithmetic.sums(head.d);
  const [quadratic, sigmas] = [arithmetic.sums(head.d), arithmetic.sums(head.d)];
  quadratic.set(rho.map((r) => r / (1 + r)));
  sigmas.set(sigma);
  const [logs, logitNorms, kept, nextFeatures] = [0, 1, 2, 3].map(() => arithmetic.sums(BLOCK));
  const [rest, whole, behind] = [0, 1, 2].map(() => new Float64Array(BLOCK));
  return (x, count) => {
    arithmetic.forms(count, head.d, x, none, quadratic, logs);
    arithmetic.forms(count, head.d, x, none, sigmas, logitNorms);
    arithmetic.squareSums(plan.m, BLOCK, features.phi, kept);
    arithmetic.squareSums(
      size - plan.m,
      BLOCK,
      features.phi.subarray(plan.m * BLOCK),
      nextFeatures,
    );
    for (let r = 0; r < count; r++) {
      whole[r] = Math.exp(logs[r] - constant);
      const floor = error * (1 + logitNorms[r]) * whole[r];
      rest[r] = Math.max(0, whole[r] - kept[r]) + floor;
      behind[r] = Math.max(rest[r] - nextFeatures[r], floor);
    }
    return { rest, whole, behind };
  };
}

export class KeyCertificate {
  readonly side: KeySide;
  readonly #arithmetic: Arithmetic;
  readonly #scaled: Real;
  readonly #second: { readonly rest: Real; readonly whole: Real; readonly nextFeatures: Real };
  readonly #sums: {
    readonly rest: Float64Array;
    readonly whole: Float64Array;
    readonly nextFeatures: Float64Array;
  };
  readonly #nextFeatures: NextFeaturesGram;
  readonly #residuals: (x: Real, count: number) => Residuals;

  constructor(space: Workspace) {
    const { arithmetic, head, plan } = space;
    const { dv } = head;
    this.#residuals = residuals(space);
    const m2 = plan.features.size - plan.m;
    this.#arithmetic = arithmetic;
    this.#scaled = arithmetic.array(BLOCK * dv);
    this.#second = {
      rest: arithmetic.array(dv * dv),
      whole: arithmetic.array(dv * dv),
      nextFeatures: arithmetic.array(m2 * m2),
    };
    this.#sums = {
      rest: arithmetic.sums(dv * dv),
      whole: arithmetic.sums(dv * dv),
      nextFeatures: arithmetic.sums(m2 * m2),
    };
    this.#nextFeatures = new NextFeaturesGram(space);
    const moments = (second: Float64Array): Moments => ({
      total: 0,
      norms: new Float64Array(NORMS),
      first: new Float64Array(dv),
      second,
    });
    this.side = {
      rest: moments(this.#sums.rest),
      whole: moments(this.#sums.whole),
      weight: moments(new Float64Array(0)),
      products: new Float64Array(NORMS - 1),
      nextFeatures: this.#sums.nextFeatures,
      beyond: 0,
    };
  }

  /** A block of keys whose features stand evaluated in the workspace. */
  add(space: Workspace, rows: KeyRows): void {
    const { dv } = space.head;
    const { rest, whole, weight, products } = this.side;
    const left = this.#residuals(rows.z, rows.count);
    const norms = squaredNorms(space, rows);
    const weights = { rest: new Float64Array(BLOCK), whole: new Float64Array(BLOCK) };
    const plainWeights = new Float64Array(BLOCK);
    for (let r = 0; r < rows.count; r++) {
      const w = Math.exp(rows.logWeight[r]);
      if (w === 0) continue;
      plainWeights[r] = w;
      weights.rest[r] = w * Math.sqrt(left.rest[r]);
      weights.whole[r] = w * Math.sqrt(left.whole[r]);
      this.side.beyond += w * left.behind[r];
      for (const [moment, value] of [
        [rest, weights.rest[r]],
        [whole, weights.whole[r]],
        [weight, w],
      ] as const) {
        moment.total += value;
        for (let n = 0; n < NORMS; n++) moment.norms[n] += value * norms[n][r];
      }
      for (let n = 1; n < NORMS; n++) products[n - 1] += w * norms[0][r] * norms[n][r];
      for (let a = 0; a < dv; a++) {
        const v = rows.v[r * dv + a];
        rest.first[a] += weights.rest[r] * v;
        whole.first[a] += weights.whole[r] * v;
      }
    }
    for (const kind of ['rest', 'whole'] as const) {
      for (let r = 0; r < rows.count; r++) {
        const root = Math.sqrt(weights[kind][r]);
        for (let a = 0; a < dv; a++) this.#scaled[r * dv + a] = root * rows.v[r * dv + a];
      }
      const block = this.#second[kind];
      this.#arithmetic.transposedGemm(dv, dv, rows.count, this.#scaled, this.#scaled, block, true);
      this.#arithmetic.fold(dv * dv, block, this.#sums[kind]);
    }
    this.#nextFeatures.add(
      plainWeights.map(Math.sqrt),
      this.#second.nextFeatures,
      this.#sums.nextFeatures,
    );
  }
}

/** sum of weight^2 psi psi' over the next features, behind the m that are used. */
export class NextFeaturesGram {
  readonly #space: Workspace;
  readonly #psi: Real;
  readonly #transposed: Real;
  readonly #weight: Float64Array;

  constructor(space: Workspace) {
    const { arithmetic, plan } = space;
    const m2 = plan.features.size - plan.m;
    this.#space = space;
    this.#psi = arithmetic.array(m2 * BLOCK);
    this.#transposed = arithmetic.array(m2 * BLOCK);
    this.#weight = arithmetic.sums(BLOCK);
  }

  add(weight: Float64Array, block: Real, sums: Float64Array): void {
    const { arithmetic, plan, features } = this.#space;
    const m2 = plan.features.size - plan.m;
    if (m2 === 0) return;
    this.#weight.set(weight);
    const nextFeatures = features.phi.subarray(plan.m * BLOCK);
    arithmetic.weighFeatures(m2, BLOCK, nextFeatures, this.#weight, this.#psi);
    arithmetic.transpose(m2, BLOCK, this.#psi, this.#transposed);
    arithmetic.gemm(m2, m2, BLOCK, this.#psi, this.#transposed, block, true);
    arithmetic.fold(m2 * m2, block, sums);
  }
}

/** The key sides of all segments together, in their order. */
export function joinKeySides(sides: readonly KeySide[]): KeySide {
  const add = (a: Float64Array, b: Float64Array) => a.map((x, i) => x + b[i]);
  const join = (a: Moments, b: Moments): Moments => ({
    total: a.total + b.total,
    norms: add(a.norms, b.norms),
    first: add(a.first, b.first),
    second: add(a.second, b.second),
  });
  return sides.reduce((a, b) => ({
    rest: join(a.rest, b.rest),
    whole: join(a.whole, b.whole),
    weight: join(a.weight, b.weight),
    products: add(a.products, b.products),
    nextFeatures: add(a.nextFeatures, b.nextFeatures),
    beyond: a.beyond + b.beyond,
  }));
}
