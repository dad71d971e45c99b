/**
 * How much each far key is worth to a block of rows, told from its coordinates:
 *
 *     p_j^2 = |v_j - mean v|^2 sum over rows i of |G_i|^2 min(1, exp(2 s_ij + 2 V_ij - 2 lse_i))
 *
 * with s_ij the logit in a few coordinates and V_ij the variance that the others add to it. lse_i is the logarithm of
 * the row sum as the client knows it, or else that of the near keys' exact weights and some far keys' expected ones,
 * exp(s_ij + V_ij / 2): the first ones of a range, which may be sinks, and one in STRIDE of the others.
 */
import { keysOfRow, type Range } from '../../mask.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { Partitions, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations/products.js';
import { STEPS_OF_LOGIT, wordsOf } from '../inner/operations/proxies.js';
import type { Mapped } from './coordinates.js';

/** Rows of a panel. */
const PANEL = 16;
/** Near keys of a block at most that are multiplied at once. */
const NEAR_AT_ONCE = 512;
/** Of the far keys that row sums are estimated from. */
const STRIDE = 8;
const FIRST_KEYS = 16;
/** Constant of a row, in steps: that of a key is added to it in 32 bits. */
const LARGEST = 2 ** 29;

/** A head in c coordinates: its keys, where operations find them, and what is asked for block by block. */
export interface HeadCoordinates extends Mapped {
  /** The keys once more, for whoever is not an operation: looked up when they are asked for, as memory may move. */
  readonly keys: () => Int32Array;
  /** Coordinates of a block's rows, and |G_i|^2. */
  readonly queries: (rows: RowBlock) => Int32Array;
  readonly sizes: (rows: RowBlock) => Float32Array;
}

/** Of a word of row i, in panels of rows of so many words. */
const placeIn = (words: number, word: number, i: number) =>
  Math.floor(i / PANEL) * PANEL * words + word * PANEL + (i % PANEL);

export class KeyProxy {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #head: HeadCoordinates;
  readonly #c: number;
  /** Coordinates of all keys of the head, and of one in STRIDE where row sums are not known. */
  readonly #z: number;
  readonly #thinned: number;
  readonly #panels: number;
  readonly #sums: number;
  readonly #sizes: number;
  readonly #q: number;
  readonly #near: number;
  /** p_j^2 / |v_j - mean v|^2 of far keys. */
  readonly #weights: number;

  /** Allocates. */
  constructor(task: Partitions, wasm: Wasm, memory: AttentionMemory, head: HeadCoordinates) {
    const { plan } = task;
    const { headDim: d } = plan.problem.dims;
    const { c, at } = head;
    const words = wordsOf(c);
    const some = plan.problem.known?.logSumExp ? 0 : Math.ceil(plan.keys / STRIDE);
    this.#task = task;
    this.#wasm = wasm;
    this.#memory = memory;
    this.#head = head;
    this.#c = c;
    this.#z = at;
    this.#thinned = wasm.alloc(4 * some * words);
    this.#panels = wasm.alloc(4 * ROWS * words);
    this.#sums = wasm.allocFloats(ROWS);
    this.#sizes = wasm.allocFloats(ROWS);
    this.#q = wasm.allocFloats(packedFloats(d, ROWS));
    this.#near = wasm.allocFloats(NEAR_AT_ONCE * ROWS);
    this.#weights = wasm.allocFloats(plan.keys);
    if (memory.warm) return;
    const thinned = wasm.i32(this.#thinned, some * words);
    const keys = head.keys();
    for (let k = 0; k < some; k++) thinned.set(slice(keys, k * STRIDE, words), k * words);
  }

  /** Address of p_j^2 / |v_j - mean v|^2 of far keys one after the other. They stay until the next block. */
  weigh(rows: RowBlock, near: Range, far: readonly Range[]): number {
    const wasm = this.#wasm;
    const words = wordsOf(this.#c);
    const n = Math.ceil(rows.n / PANEL) * PANEL;
    this.#load(rows, n);
    const lse = this.#logSums(rows, near, far, n);
    const panels = wasm.i32(this.#panels, n * words);
    for (let i = 0; i < rows.n; i++) {
      const at = placeIn(words, words - 1, i);
      const constant = panels[at]! - STEPS_OF_LOGIT * lse[i]!;
      panels[at] = Math.max(-LARGEST, Math.min(LARGEST, constant));
    }
    let weights = this.#weights;
    for (const { first, last } of far) {
      const z = this.#z + 4 * first * words;
      wasm.fn.proxy_keys(n, last - first, this.#c, this.#panels, z, this.#sizes, weights);
      weights += 4 * (last - first);
    }
    return this.#weights;
  }

  /** The rows' coordinates, packed, and their sizes; those that fill up the last panel have none. */
  #load(block: RowBlock, n: number): void {
    const wasm = this.#wasm;
    const words = wordsOf(this.#c);
    const rows = this.#head.queries(block);
    const panels = wasm.i32(this.#panels, n * words).fill(0);
    for (let i = 0; i < block.n; i++) {
      for (let k = 0; k < words; k++) panels[placeIn(words, k, i)] = rows[i * words + k]!;
    }
    wasm.f32(this.#sizes, n).fill(0).set(this.#head.sizes(block));
  }

  /** log2 of the sum of e^S of each row. */
  #logSums(rows: RowBlock, near: Range, far: readonly Range[], n: number): Float64Array {
    const { known, dims } = this.#task.plan.problem;
    const { partition, first, n: count } = rows;
    if (known?.logSumExp) {
      const { data } = known.logSumExp;
      const at =
        (partition.headGroup.batchItem * dims.heads + partition.head) * dims.queryLength + first;
      const sums = new Float64Array(count);
      for (let i = 0; i < count; i++) sums[i] = Math.LOG2E * data[at + i]!;
      return sums;
    }
    const sums = this.#nearSums(rows, near);
    for (const range of far) {
      const start = Math.min(range.last, range.first + FIRST_KEYS);
      this.#addRows(n, this.#z, range.first, start, 1, sums);
      const [from, to] = [start, range.last].map((key) => Math.ceil(key / STRIDE));
      const each = to! > from! ? (range.last - start) / (to! - from!) : 0;
      this.#addRows(n, this.#thinned, from!, to!, each, sums);
    }
    return sums.map(Math.log2);
  }

  /** sums += `each` times the weights that some keys, rows [from, to) of z, are expected to have. */
  #addRows(n: number, z: number, from: number, to: number, each: number, sums: Float64Array): void {
    const wasm = this.#wasm;
    const found = wasm.f32(this.#sums, n).fill(0);
    const at = z + 4 * from * wordsOf(this.#c);
    wasm.fn.proxy_rows(n, to - from, this.#c, this.#panels, at, this.#sums);
    for (let i = 0; i < sums.length; i++) sums[i]! += each * found[i]!;
  }

  /** Sums over the near keys that each row sees; where there are sinks the client knows the sums. */
  #nearSums({ partition, first, n }: RowBlock, near: Range): Float64Array {
    const wasm = this.#wasm;
    const { plan, workspace } = this.#task;
    const { problem } = plan;
    const { headDim: d, queryLength } = problem.dims;
    const sums = new Float64Array(n);
    const Q = slice(workspace.Q, partition.place, queryLength * d);
    wasm.f32(this.#memory.qRows, n * d).set(Q.subarray(first * d, (first + n) * d));
    wasm.fn.pack_transposed(n, d, this.#memory.qRows, d, problem.scaling, this.#q);
    const seen = Array.from(sums, (_, i) =>
      keysOfRow(problem, partition.headGroup.batchItem, first + i),
    );
    for (let key = near.first; key < near.last; key += NEAR_AT_ONCE) {
      const count = Math.min(NEAR_AT_ONCE, near.last - key);
      const K = this.#memory.fields.k + 4 * key * d;
      wasm.fn.gemm(count, n, d, K, d, this.#q, this.#near, ROWS, false);
      wasm.fn.exp(this.#near, count * ROWS);
      const weights = wasm.f32(this.#near, count * ROWS);
      seen.forEach(({ first, last }, i) => {
        const end = Math.min(last, key + count);
        let sum = 0;
        for (let j = Math.max(first, key); j < end; j++) sum += weights[(j - key) * ROWS + i]!;
        sums[i]! += sum;
      });
    }
    return sums;
  }
}
