/** Sums over rows for every group of drawn features. */
import type { Packed, Real } from '../../arithmetic/arithmetic.js';
import { BlockSums } from '../../arithmetic/block-sums.js';
import { BLOCK } from '../../head/block.js';
import { DRAWN_GROUPS } from '../../head/plan.js';
import type { Workspace } from '../../head/workspace.js';

/** Where a gradient of every group goes. */
export interface GroupSlots {
  readonly slot: Float64Array;
  /** Where the gradient of the first group begins; those of the others follow `stride` apart. */
  readonly offset: number;
  readonly stride: number;
}

/**
 * For rows a of width dv, sum over the features f of a group of phi_f [a, 1]'T_f, with matrices T_f (dv + 1, width), given row
 * by row.
 */
export class Grouped {
  readonly #operand: Packed;
  readonly #wide: Real;
  readonly #result: Real;

  constructor(
    private readonly space: Workspace,
    private readonly count: number,
    private readonly width: number,
    row: (f: number, a: number) => ArrayLike<number>,
  ) {
    const { arithmetic, head } = space;
    const inner = head.dv + 1;
    const columns = count * width;
    const operand = new Float64Array(inner * columns);
    for (let f = 0; f < count; f++) {
      for (let a = 0; a < inner; a++) operand.set(row(f, a), a * columns + f * width);
    }
    this.#operand = arithmetic.pack(inner, columns, operand);
    this.#wide = arithmetic.array(BLOCK * columns);
    this.#result = arithmetic.array(BLOCK * DRAWN_GROUPS * width);
  }

  /** (n, groups, width) for a (n, dv + 1), phi (count, BLOCK); valid until the next call. */
  multiply(n: number, a: Real, phi: Real): Real {
    const { arithmetic } = this.space;
    arithmetic.product(n, a, this.#operand, this.#wide);
    arithmetic.groupSums(
      n,
      this.count,
      this.width,
      DRAWN_GROUPS,
      phi,
      BLOCK,
      this.#wide,
      this.#result,
    );
    return this.#result;
  }
}

/** Sum over rows of left (x) right, (rows, columns). */
export class OuterSums {
  readonly #sums: BlockSums;

  constructor(
    private readonly space: Workspace,
    private readonly rows: number,
    private readonly columns: number,
  ) {
    this.#sums = new BlockSums(space.arithmetic, rows * columns);
  }

  get total(): Float64Array {
    return this.#sums.total();
  }

  /** left (n, rows), right (n, columns). */
  add(n: number, left: Real, right: Real): void {
    const { rows, columns } = this;
    this.space.arithmetic.transposedGemm(rows, columns, n, left, right, this.#sums.block, true);
    this.#sums.next();
  }

  /** left (rows, BLOCK), 0 past the last row, right (BLOCK, columns). */
  addFeatures(left: Real, right: Real): void {
    const { rows, columns } = this;
    this.space.arithmetic.gemm(rows, columns, BLOCK, left, right, this.#sums.block, true);
    this.#sums.next();
  }

  /** The sum times matrix (columns, width). */
  times(matrix: Float64Array, width: number): OuterSums {
    const { arithmetic } = this.space;
    const result = new OuterSums(this.space, this.rows, width);
    const total = arithmetic.array(this.rows * this.columns);
    total.set(this.total);
    const right = arithmetic.array(matrix.length);
    right.set(matrix);
    arithmetic.gemm(this.rows, width, this.columns, total, right, result.#sums.block, true);
    return result;
  }

  /**
   * Adds `factor` times rows [from, from + width) of every group, or their transpose, to the slots; the rows are dealt
   * to the groups in their order.
   */
  addTo(
    { slot, offset, stride }: GroupSlots,
    factor: number,
    from: number,
    width: number,
    transposed: boolean,
  ): void {
    const { columns, total } = this;
    const perGroup = this.rows / DRAWN_GROUPS;
    for (let k = 0; k < DRAWN_GROUPS; k++) {
      for (let c = 0; c < width; c++) {
        const row = (k * perGroup + from + c) * columns;
        for (let x = 0; x < columns; x++) {
          const to = transposed ? x * width + c : c * columns + x;
          slot[k * stride + offset + to] += factor * total[row + x];
        }
      }
    }
  }
}
