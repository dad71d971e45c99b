/**
 * How much each far key is worth to a block of rows, told from its coordinates:
 *
 *     p_j^2 = |v_j - mean v|^2 sum over rows i of |G_i|^2 exp(2 s_ij + 2 V_ij - 2 lse_i)
 *
 * with s_ij the logit in a few coordinates and V_ij the variance that the others add to it. lse_i is the logarithm of
 * the row sum as the client knows it, or else that of the near keys' exact weights and the far keys' expected ones,
 * exp(s_ij + V_ij / 2).
 */
import { keysOfRow, type Range } from '../../mask.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { Lanes, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations.js';
import { type Coordinates, rowsOfHead } from './coordinates.js';

/** Rows of a panel. */
const PANEL = 16;
/** Near keys of a block at most that are multiplied at once. */
const NEAR_AT_ONCE = 512;
/** Of a row that is not there: a power of two that is nothing. */
const NOTHING = -1000;

export class KeyProxy {
  readonly #task: Lanes;
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #coordinates: Coordinates;
  /** Of the head in the coordinates. */
  readonly #place: number;
  readonly #c: number;
  /** Coordinates of all keys of the head. */
  readonly #z: number;
  readonly #rows: number;
  readonly #panels: number;
  readonly #sums: number;
  readonly #q: number;
  readonly #near: number;
  /** p_j^2 / |v_j - mean v|^2 of every key. */
  readonly #weights: number;

  /** Allocates, and copies in the keys' coordinates where they are not there yet. */
  constructor(
    task: Lanes,
    wasm: Wasm,
    memory: AttentionMemory,
    place: number,
    coordinates: Coordinates,
    c: number,
  ) {
    const { plan } = task;
    const { headDim: d } = plan.problem.dims;
    this.#task = task;
    this.#wasm = wasm;
    this.#memory = memory;
    this.#coordinates = coordinates;
    this.#place = place;
    this.#c = c;
    const width = c + 2;
    this.#z = wasm.allocFloats(plan.keys * width);
    this.#rows = wasm.allocFloats(ROWS * width);
    this.#panels = wasm.allocFloats(packedFloats(width, ROWS));
    this.#sums = wasm.allocFloats(ROWS);
    this.#q = wasm.allocFloats(packedFloats(d, ROWS));
    this.#near = wasm.allocFloats(NEAR_AT_ONCE * ROWS);
    this.#weights = wasm.allocFloats(plan.keys);
    if (memory.warm) return;
    const keys = rowsOfHead(coordinates.keys, place, plan.keys, coordinates.pitch, c);
    wasm.f32(this.#z, keys.length).set(keys);
  }

  /** p_j^2 / |v_j - mean v|^2 by number of the key, of far keys. They stay until the next block. */
  weigh(rows: RowBlock, near: Range, far: readonly Range[]): Float32Array {
    const wasm = this.#wasm;
    const width = this.#c + 2;
    const n = Math.ceil(rows.n / PANEL) * PANEL;
    this.#load(rows, n);
    const lse = this.#logSums(rows, near, far, n);
    const sizes = this.#upstream(rows);
    const panels = wasm.f32(this.#panels, n * width);
    for (let i = 0; i < n; i++) {
      const at = Math.floor(i / PANEL) * PANEL * width + this.#c * PANEL + (i % PANEL);
      if (i < rows.n) panels[at]! += Math.log2(sizes[i]!) - lse[i]!;
      // Minus infinity of a row without a gradient, too.
      panels[at] = Math.max(panels[at]!, NOTHING);
    }
    for (const { first, last } of far) {
      const z = this.#z + 4 * first * width;
      const weights = this.#weights + 4 * first;
      wasm.fn.proxy_keys(n, last - first, this.#c, this.#panels, z, weights);
    }
    return wasm.f32(this.#weights, this.#task.plan.keys);
  }

  /** The rows' coordinates, packed; those that fill up the last panel have no weight. */
  #load({ first, n: count }: RowBlock, n: number): void {
    const wasm = this.#wasm;
    const { queryLength } = this.#task.plan.problem.dims;
    const { queries, pitch } = this.#coordinates;
    const width = this.#c + 2;
    const all = rowsOfHead(queries, this.#place, queryLength, pitch, this.#c);
    const rows = wasm.f32(this.#rows, n * width).fill(0);
    rows.set(all.subarray(first * width, (first + count) * width));
    for (let i = count; i < n; i++) rows[i * width + this.#c] = NOTHING;
    wasm.fn.pack_transposed(n, width, this.#rows, width, 1, this.#panels);
  }

  /** log2 of the sum of e^S of each row. */
  #logSums(rows: RowBlock, near: Range, far: readonly Range[], n: number): Float64Array {
    const { known, dims } = this.#task.plan.problem;
    const { lane, first, n: count } = rows;
    if (known?.logSumExp) {
      const { data } = known.logSumExp;
      const at = (lane.unit.batchItem * dims.heads + lane.head) * dims.queryLength + first;
      return Float64Array.from(data.subarray(at, at + count), (x) => Math.LOG2E * x);
    }
    const wasm = this.#wasm;
    const sums = this.#nearSums(rows, near);
    wasm.f32(this.#sums, n).fill(0);
    for (const { first, last } of far) {
      const z = this.#z + 4 * first * (this.#c + 2);
      wasm.fn.proxy_rows(n, last - first, this.#c, this.#panels, z, this.#sums);
    }
    const ofFar = wasm.f32(this.#sums, n);
    return sums.map((x, i) => Math.log2(x + ofFar[i]!));
  }

  /** Sums over the near keys that each row sees, and its head's sink. */
  #nearSums({ lane, first, n }: RowBlock, near: Range): Float64Array {
    const wasm = this.#wasm;
    const { plan, workspace } = this.#task;
    const { problem } = plan;
    const { headDim: d, queryLength } = problem.dims;
    const sink = problem.sinks ? Math.exp(problem.sinks.data[lane.head]!) : 0;
    const sums = new Float64Array(n).fill(sink);
    const Q = slice(workspace.Q, lane.place, queryLength * d);
    wasm.f32(this.#memory.qRows, n * d).set(Q.subarray(first * d, (first + n) * d));
    wasm.fn.pack_transposed(n, d, this.#memory.qRows, d, problem.scaling, this.#q);
    const seen = Array.from(sums, (_, i) => keysOfRow(problem, lane.unit.batchItem, first + i));
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

  /** |G_i|, where it is known before O is. */
  #upstream({ lane, first, n }: RowBlock): Float64Array {
    const { objective, dims } = this.#task.plan.problem;
    const sizes = new Float64Array(n).fill(1);
    if (objective?.kind !== 'grad_output') return sizes;
    const { queryLength, heads, valueDim: dv } = dims;
    const { data } = objective.tensor;
    return sizes.map((_, i) => {
      const at = ((lane.unit.batchItem * queryLength + first + i) * heads + lane.head) * dv;
      let square = 0;
      for (let c = at; c < at + dv; c++) square += data[c]! * data[c]!;
      return Math.sqrt(square);
    });
  }
}
