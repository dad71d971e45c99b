/**
 * How much each far key is worth to a block of rows, told from its coordinates:
 *
 *     p_j^2 = |v_j - mean v|^2 sum over groups of four rows of the largest |G_i|^2 min(1, exp(2 s_ij + 2 V_ij - 2 lse_i))
 *
 * with s_ij the logit in a few coordinates and V_ij the variance that the others add to it: a quarter of the sum over all rows
 * at least, whichever of them a key is worth something to. lse_i is the logarithm of
 * the row sum as the client knows it, or else that of the near keys' exact weights and some far keys' expected ones,
 * exp(s_ij + V_ij / 2): the first ones of a range, which may be sinks, and one panel in STRIDE of the others.
 */
import { keysOfRow, type Range } from '../../mask.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { Partitions, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations/products.js';
import {
  GROUP,
  LARGEST_CONSTANT,
  PANEL,
  placeIn,
  STEPS_OF_LOGIT,
  wordsOf,
  wordsOfRows,
} from '../inner/operations/proxies.js';
import type { Mapped } from './coordinates.js';

/** Near keys of a block at most that are multiplied at once. */
const NEAR_AT_ONCE = 512;
/** Of the panels of far keys that row sums are estimated from. */
const STRIDE = 8;
const FIRST_KEYS = 16;

/** A head in c coordinates: its keys, where operations find them, and what is asked for block by block. */
export interface HeadCoordinates extends Mapped {
  /** Coordinates of a block's rows, in panels, and |G_i|^2. */
  readonly queries: (rows: RowBlock) => Int32Array;
  readonly sizes: (rows: RowBlock) => Float32Array;
}

export class KeyProxy {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #head: HeadCoordinates;
  readonly #c: number;
  /** Coordinates of all keys of the head. */
  readonly #z: number;
  readonly #panels: number;
  readonly #sums: number;
  readonly #caps: number;
  readonly #q: number;
  readonly #near: number;
  /** p_j^2 / |v_j - mean v|^2 by key, of panels with far ones. */
  readonly #weights: number;

  /** Allocates. */
  constructor(task: Partitions, wasm: Wasm, memory: AttentionMemory, head: HeadCoordinates) {
    const { plan } = task;
    const { headDim: d } = plan.problem.dims;
    const { c, at } = head;
    this.#task = task;
    this.#wasm = wasm;
    this.#memory = memory;
    this.#head = head;
    this.#c = c;
    this.#z = at;
    this.#panels = wasm.alloc(4 * wordsOfRows(ROWS, c));
    this.#sums = wasm.allocFloats(ROWS);
    this.#caps = wasm.alloc((4 * ROWS) / GROUP);
    this.#q = wasm.allocFloats(packedFloats(d, ROWS));
    this.#near = wasm.allocFloats(NEAR_AT_ONCE * ROWS);
    this.#weights = wasm.allocFloats(PANEL * Math.ceil(plan.keys / PANEL));
  }

  /** Address of p_j^2 / |v_j - mean v|^2 by key, of the far ones. They stay until the next block. */
  weigh(rows: RowBlock, near: Range, far: readonly Range[]): number {
    const wasm = this.#wasm;
    const n = Math.ceil(rows.n / PANEL) * PANEL;
    wasm.i32(this.#panels, wordsOfRows(n, this.#c)).set(this.#head.queries(rows));
    const largest = this.#weighRows(rows, this.#logSums(rows, near, far, n), n);
    for (const { first, last } of far) {
      const [from, to] = [Math.floor(first / PANEL), Math.ceil(last / PANEL)];
      wasm.fn.proxy_keys(
        ...([n, PANEL * (to - from), this.#c, largest, this.#panels] as const),
        this.#z + 4 * wordsOfRows(PANEL * from, this.#c),
        ...([this.#caps, this.#weights + 4 * PANEL * from] as const),
      );
    }
    return this.#weights;
  }

  /**
   * Adds to the constants of rows what makes their weights of logits, log2(|G_i| / max |G|) - lse_i, and caps those of groups.
   *
   * @returns max |G|^2.
   */
  #weighRows(rows: RowBlock, lse: Float64Array, n: number): number {
    const wasm = this.#wasm;
    const c = this.#c;
    const sizes = this.#head.sizes(rows);
    const largest = sizes.reduce((most, x) => Math.max(most, x), 0);
    const panels = wasm.i32(this.#panels, wordsOfRows(n, c));
    const caps = wasm.i32(this.#caps, n / GROUP).fill(-LARGEST_CONSTANT);
    const held = (x: number) => Math.max(-LARGEST_CONSTANT, Math.min(LARGEST_CONSTANT, x));
    for (let i = 0; i < n; i++) {
      const at = placeIn(c, i, wordsOf(c) - 2);
      // Rows without a gradient, and those that fill up the last panel, weigh nothing.
      const size = i < rows.n ? sizes[i]! : 0;
      if (!(size > 0)) {
        panels[at] = -LARGEST_CONSTANT;
        continue;
      }
      const above = 0.5 * STEPS_OF_LOGIT * Math.log2(size / largest);
      const group = Math.floor(i / GROUP);
      caps[group] = Math.max(caps[group]!, held(above));
      panels[at] = held(panels[at]! + above - STEPS_OF_LOGIT * lse[i]!);
    }
    return largest;
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
      this.#addRows(n, { first: range.first, last: start }, 1, sums);
      this.#addRows(n, { first: start, last: range.last }, STRIDE, sums);
    }
    return sums.map(Math.log2);
  }

  /** sums += the weights that far keys are expected to have, told by one panel in `step`. */
  #addRows(n: number, { first, last }: Range, step: number, sums: Float64Array): void {
    const wasm = this.#wasm;
    const found = wasm.f32(this.#sums, n).fill(0);
    wasm.fn.proxy_rows(n, first, last, step, this.#c, this.#panels, this.#z, this.#sums);
    let seen = 0;
    for (let panel = first - (first % PANEL); panel < last; panel += PANEL * step) {
      seen += Math.min(last, panel + PANEL) - Math.max(first, panel);
    }
    const each = seen > 0 ? (last - first) / seen : 0;
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
