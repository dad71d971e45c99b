/** Sums over blocks of rows: float32 over a few blocks, float64 over these. */
import type { Arithmetic, Real } from './arithmetic.js';

/**
 * Blocks that float32 sums: to move all sums to float64 takes half as long as a block's product. Five hundred rows lose
 * no more than the product of one with hundreds of features does.
 */
const BLOCKS = 4;

export class BlockSums {
  /** To be added to. */
  readonly block: Real;
  readonly #total: Float64Array;
  #blocks = 0;

  constructor(
    private readonly arithmetic: Arithmetic,
    readonly length: number,
  ) {
    this.block = arithmetic.array(length);
    this.#total = arithmetic.sums(length);
  }

  /** After every block. */
  next(): void {
    if (++this.#blocks % BLOCKS === 0) this.#fold();
  }

  /** Over all blocks so far. */
  total(): Float64Array {
    this.#fold();
    return this.#total;
  }

  #fold(): void {
    this.arithmetic.fold(this.length, this.block, this.#total);
  }
}
