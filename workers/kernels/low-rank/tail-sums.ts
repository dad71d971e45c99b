/**
 * What the drawn features of the tail would add to the gradients, group by group and to first order in
 * what the chain leaves out: with M, ZU and N of a drawn feature f, from the sums of the passes,
 *
 *     (dS U)_i += phi_f(q_i) (G_i'M_f - (G_i.O_i) ZU_f) / D_i     (dS'L)_j += w_j phi_f(k_j) (v_j'N_f - N0_f)
 *     (P X A_V')_i += phi_f(q_i) ZVA_f / D_i                      (P'G B_V)_j += w_j phi_f(k_j) NGB_f
 *
 * with O_i and D_i as the chain has them; X^K, X^V are centred, since these rows of P do not add up to one.
 * What the chain's normalisation does is left to the sampled rows (sampled.ts).
 */
import type { Real } from './arithmetic.js';
import type { Layout } from './layout.js';
import type { QueryBlock } from './queries.js';
import { BLOCK, type KeyRows, type Workspace } from './rows.js';
import { TAIL_GROUPS, type Tail } from './tail.js';

/** Tensors 0, 3, 5 of the second pass. `state` are the key sums, those of the tail from row m on. */
export function tailQueries(space: Workspace, at: Layout, state: Real) {
  const { arithmetic, head, plan } = space;
  const { tail, m } = plan;
  if (!tail) return null;
  const { d, dv, query, key, value } = head;
  const p = at.right;
  const row = (f: number) => (m + f) * at.keyWidth;
  const products = (from: number, width: number, other: number) =>
    new Products(space, tail, width, other, (f, a, c) =>
      a < dv ? state[row(f) + at.atVU + a * p + from + c] : -state[row(f) + at.atU + from + c],
    );
  const ofQuery = products(0, query.rank, query.effective.inputs);
  const ofKey = products(query.rank, key.rank, d);
  const values = new Sums(space, value.rank > 0 ? tail.count : 0, dv);
  const gradient = arithmetic.array(BLOCK * (dv + 1));
  return {
    /** phi (count, BLOCK): times the weights of the rows. */
    add({ rows, gradient: g, shift }: QueryBlock, phi: Real): void {
      const n = rows.count;
      arithmetic.copyColumns(n, dv, g, dv, 0, gradient, dv + 1, 0);
      arithmetic.copyColumns(n, 1, shift, 1, 0, gradient, dv + 1, dv);
      ofQuery.add(n, gradient, phi, rows.xq);
      ofKey.add(n, gradient, phi, rows.q);
      values.add(phi, g);
    },
    save(slot: Float64Array): void {
      ofQuery.save(slot, at.gradientAt[0], at.gradientTotal, false);
      ofKey.save(slot, at.gradientAt[3], at.gradientTotal, true);
      const { rank } = value;
      eachDraw(tail, rank > 0, (f, coefficient, group) => {
        const to = group * at.gradientTotal + at.gradientAt[5];
        for (let c = 0; c < rank; c++) {
          const z = state[row(f) + at.atVA + c] - plan.centreVA[c] * state[row(f)];
          for (let a = 0; a < dv; a++) {
            slot[to + a * rank + c] += coefficient * z * values.total[f * dv + a];
          }
        }
      });
    },
  };
}

/** Tensors 1, 2, 4 of the third pass. `state` are the query sums, those of the tail from row m on. */
export function tailKeys(space: Workspace, at: Layout, state: Real) {
  const { arithmetic, head, plan } = space;
  const { tail, m } = plan;
  if (!tail) return null;
  const { d, dv, query, key, value } = head;
  const p = at.left;
  const row = (f: number) => (m + f) * at.queryWidth;
  const products = (from: number, width: number, other: number) =>
    new Products(space, tail, width, other, (f, a, c) =>
      a < dv ? state[row(f) + at.atGL + a * p + from + c] : -state[row(f) + from + c],
    );
  const { inputs } = value.effective;
  const ofQuery = products(0, query.rank, d);
  const ofKey = products(query.rank, key.rank, key.effective.inputs);
  const values = new Sums(space, value.rank > 0 ? tail.count : 0, inputs);
  const rowsV = arithmetic.array(BLOCK * (dv + 1)).fill(1);
  const centre = (x: Float64Array) => {
    const copy = arithmetic.array(x.length);
    copy.set(x.map((c) => -c));
    return copy;
  };
  const [minusK, minusV] = [centre(plan.centreXK), centre(plan.centreXV)];
  return {
    /** phi (count, BLOCK): times the weights of the keys. Leaves X^K and X^V centred. */
    add({ count: n, v, k, xk, xv }: KeyRows, phi: Real): void {
      arithmetic.copyColumns(n, dv, v, dv, 0, rowsV, dv + 1, 0);
      ofQuery.add(n, rowsV, phi, k);
      if (key.rank > 0) arithmetic.addRow(n, key.effective.inputs, minusK, xk);
      ofKey.add(n, rowsV, phi, xk);
      if (value.rank > 0) arithmetic.addRow(n, inputs, minusV, xv);
      values.add(phi, xv);
    },
    save(slot: Float64Array): void {
      ofQuery.save(slot, at.gradientAt[1], at.gradientTotal, true);
      ofKey.save(slot, at.gradientAt[2], at.gradientTotal, false);
      const { rank } = value;
      eachDraw(tail, rank > 0, (f, coefficient, group) => {
        const to = group * at.gradientTotal + at.gradientAt[4];
        for (let c = 0; c < rank; c++) {
          const g = coefficient * state[row(f) + at.atGB + c];
          for (let x = 0; x < inputs; x++) {
            slot[to + c * inputs + x] += g * values.total[f * inputs + x];
          }
        }
      });
    },
  };
}

function eachDraw(
  { count, coefficient }: Tail,
  wanted: boolean,
  visit: (f: number, coefficient: number, group: number) => void,
): void {
  for (let f = 0; wanted && f < count; f++) {
    visit(f, coefficient[f], Math.floor((f * TAIL_GROUPS) / count));
  }
}

/** sum over rows of phi_f x for every draw (count, width). */
class Sums {
  readonly total: Float64Array;
  readonly #block: Real;

  constructor(
    private readonly space: Workspace,
    private readonly count: number,
    private readonly width: number,
  ) {
    this.total = space.arithmetic.sums(count * width);
    this.#block = space.arithmetic.array(count * width);
  }

  /** phi (count, BLOCK), 0 past the last row; x (BLOCK, width). */
  add(phi: Real, x: Real): void {
    const { arithmetic } = this.space;
    if (this.count === 0) return;
    arithmetic.gemm(this.count, this.width, BLOCK, phi, x, this.#block, true);
    arithmetic.fold(this.#block.length, this.#block, this.total);
  }
}

/**
 * Group by group, sum over rows of (sum_f phi_f [a, 1]'T_f) (x) x, for rows a of width dv, matrices T_f (dv + 1, width) and
 * rows x of width `other`.
 */
class Products {
  readonly #total: Float64Array;
  readonly #block: Real;
  readonly #operand;
  readonly #wide: Real;
  readonly #grouped: Real;

  constructor(
    private readonly space: Workspace,
    private readonly tail: Tail,
    private readonly width: number,
    private readonly other: number,
    entry: (f: number, a: number, c: number) => number,
  ) {
    const { arithmetic, head } = space;
    const inner = head.dv + 1;
    const columns = tail.count * width;
    const operand = new Float64Array(inner * columns);
    for (let f = 0; f < tail.count; f++) {
      for (let a = 0; a < inner; a++) {
        for (let c = 0; c < width; c++) {
          operand[a * columns + f * width + c] = tail.coefficient[f] * entry(f, a, c);
        }
      }
    }
    this.#operand = width > 0 ? arithmetic.pack(inner, columns, operand) : null;
    this.#wide = arithmetic.array(BLOCK * columns);
    this.#grouped = arithmetic.array(BLOCK * TAIL_GROUPS * width);
    this.#block = arithmetic.array(TAIL_GROUPS * width * other);
    this.#total = arithmetic.sums(TAIL_GROUPS * width * other);
  }

  /** a (n, dv + 1), phi (count, BLOCK), x (n, other). */
  add(n: number, a: Real, phi: Real, x: Real): void {
    if (!this.#operand) return;
    const { arithmetic } = this.space;
    const { width, other } = this;
    const { count } = this.tail;
    arithmetic.product(n, a, this.#operand, this.#wide);
    arithmetic.groupSums(n, count, width, TAIL_GROUPS, phi, BLOCK, this.#wide, this.#grouped);
    const columns = TAIL_GROUPS * width;
    arithmetic.transposedGemm(columns, other, n, this.#grouped, x, this.#block, true);
    arithmetic.fold(this.#block.length, this.#block, this.#total);
  }

  /** Writes (width, other) of every group, or its transpose, at `offset` of slots `stride` apart. */
  save(slot: Float64Array, offset: number, stride: number, transposed: boolean): void {
    const { width, other } = this;
    for (let k = 0; k < TAIL_GROUPS; k++) {
      for (let c = 0; c < width; c++) {
        for (let x = 0; x < other; x++) {
          const to = transposed ? x * width + c : c * other + x;
          slot[k * stride + offset + to] = this.#total[(k * width + c) * other + x];
        }
      }
    }
  }
}
