/**
 * What the draws do to the gradient of a head's sink, -sum_i P_i,sink G_i.O_i, with P_i,sink as the client's row sums have it.
 * It is one number, of which a few blocks tell little: every drawn block is asked. To first order key j adds
 *
 *     z_j = sum_i P_i,sink dS_ij
 *
 * times how often it is drawn over its probability pi_j, and sum (1 - pi_j) (z_j / pi_j)^2 over drawn keys is the variance.
 */
import type { ListedKeys } from '../../attention/by-lists.js';
import { inverse, knownSum, sinkOf } from '../../attention/rows.js';
import type { Partitions, RowBlock } from '../../attention/task.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { packedFloats } from '../../inner/operations/products.js';

/** (heads, 2): the variance, and the sum of the squares of what it is made of. Additive over blocks. */
export type SinkSums = Float64Array;

export const makeSinkSums = (heads: number): SinkSums => new Float64Array(2 * heads);

export class SinkErrors {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #weights: number;
  readonly #packed: number;
  readonly #z: number;

  /** Allocates. @param capacity largest number of keys of a list. */
  constructor(task: Partitions, wasm: Wasm, capacity: number) {
    this.#task = task;
    this.#wasm = wasm;
    this.#weights = wasm.allocFloats(ROWS);
    this.#packed = wasm.allocFloats(packedFloats(ROWS, 1));
    this.#z = wasm.allocFloats(capacity);
  }

  /**
   * Adds a block whose dS, times the row sums, is still in memory.
   *
   * @param probability of the last keys of the list; the others are there anyway.
   * @param head of the whole problem.
   */
  add(
    { partition, first, n }: RowBlock,
    { memory: { fields }, count }: Pick<ListedKeys, 'memory' | 'count'>,
    probability: Float64Array,
    head: number,
    to: SinkSums,
  ): void {
    const wasm = this.#wasm;
    const { plan } = this.#task;
    const sink = sinkOf(plan, partition);
    const [sum, mean] = [wasm.f64(fields.sum, n), wasm.f32(fields.mean, n)];
    const weights = wasm.f32(this.#weights, ROWS).fill(0);
    for (let i = 0; i < n; i++) {
      if (mean[i])
        weights[i] = 2 ** (sink - knownSum(plan, partition, first + i)) * inverse(sum[i]!);
    }
    if (fields.slope) this.#divide(count * ROWS, fields.t, fields.slope);
    wasm.fn.pack(ROWS, 1, this.#weights, 1, this.#packed);
    wasm.fn.gemm(count, 1, ROWS, fields.t, ROWS, this.#packed, this.#z, 1, false);
    const z = wasm.f32(this.#z, count).subarray(count - probability.length);
    probability.forEach((pi, k) => {
      const square = (1 - pi) * z[k]! ** 2;
      to[2 * head]! += square;
      to[2 * head + 1]! += square ** 2;
    });
  }

  /** dS as it was before the slope of the cap, which is never 0. */
  #divide(n: number, at: number, by: number): void {
    const [x, y] = [this.#wasm.f32(at, n), this.#wasm.f32(by, n)];
    for (let k = 0; k < n; k++) x[k]! /= y[k]!;
  }
}
