/**
 * What the draws do to the gradient of a head's sink, -sum_i P_i,sink G_i.O_i, with P_i,sink as the client's row sums have it.
 * It is one number, of which the errors of a few blocks tell little. To first order key j adds
 *
 *     z_j = sum_i P_i,sink dS_ij
 *
 * times how often it is drawn over its probability pi_j. Its variance is told twice: by the drawn keys of all blocks,
 * sum (1 - pi_j) (z_j / pi_j)^2, and by all keys of the measured blocks, sum (1 / pi_j - 1) z_j^2. The first has no key that
 * was not drawn, the second no block that was not measured.
 */
import type { AttentionMemory } from '../../attention/memory.js';
import { inverse, knownSum, sinkOf } from '../../attention/rows.js';
import type { Partitions, RowBlock } from '../../attention/task.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { packedFloats } from '../../inner/operations/products.js';
import { probabilityOf, sizeOf, type Worths } from '../draw.js';

/** (heads, 2): the variance, and the sum of the squares of what it is made of. Additive over blocks. */
type VarianceSums = Float64Array;

export interface SinkSums {
  readonly byDrawn: VarianceSums;
  readonly byMeasured: VarianceSums;
}

export const makeSinkSums = (heads: number): SinkSums => ({
  byDrawn: new Float64Array(2 * heads),
  byMeasured: new Float64Array(2 * heads),
});

const addTerm = (to: VarianceSums, head: number, term: number) => {
  to[2 * head]! += term;
  to[2 * head + 1]! += term ** 2;
};

/** Keys whose dS, times the row sums, is still in memory. */
interface Attended {
  readonly memory: AttentionMemory;
  readonly count: number;
}

export class SinkErrors {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #weights: number;
  readonly #packed: number;
  readonly #z: number;

  /** Allocates. */
  constructor(task: Partitions, wasm: Wasm) {
    this.#task = task;
    this.#wasm = wasm;
    this.#weights = wasm.allocFloats(ROWS);
    this.#packed = wasm.allocFloats(packedFloats(ROWS, 1));
    this.#z = wasm.allocFloats(task.plan.keys);
  }

  /**
   * Adds a block with its drawn keys.
   *
   * @param probability of the last keys of the list; the others are there anyway.
   * @param head of the whole problem.
   */
  addDrawn(
    rows: RowBlock,
    list: Attended,
    probability: Float64Array,
    head: number,
    to: SinkSums,
  ): void {
    const z = this.#ofKeys(rows, list).subarray(list.count - probability.length);
    probability.forEach((pi, k) => {
      addTerm(to.byDrawn, head, (1 - pi) * z[k]! ** 2);
    });
  }

  /** Adds a block with all its keys, which stands for `each`. */
  addMeasured(
    rows: RowBlock,
    all: Attended,
    worths: Worths,
    scale: number,
    each: number,
    head: number,
    to: SinkSums,
  ): void {
    const z = this.#ofKeys(rows, all);
    const worth = this.#wasm.f64(worths.worth, worths.count);
    let [sum, place] = [0, 0];
    for (const range of worths.far) {
      for (let k = 0; k < sizeOf(range); k++) {
        const pi = probabilityOf(worths, worth[place++]!, scale);
        sum += (1 / pi - 1) * z[range.first + k]! ** 2;
      }
    }
    addTerm(to.byMeasured, head, each * sum);
  }

  /** z of keys, drawn ones over their probability. */
  #ofKeys(
    { partition, first, n }: RowBlock,
    { memory: { fields }, count }: Attended,
  ): Float32Array {
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
    return wasm.f32(this.#z, count);
  }

  /** dS as it was before the slope of the cap, which is never 0. */
  #divide(n: number, at: number, by: number): void {
    const [x, y] = [this.#wasm.f32(at, n), this.#wasm.f32(by, n)];
    for (let k = 0; k < n; k++) x[k]! /= y[k]!;
  }
}
