/** What each key adds to the gradients by way of one block of rows: squares, from the products over all keys. */
import type { Range } from '../../mask.js';
import { inverse } from '../attention/rows.js';
import type { Partitions, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations.js';
import type { Products } from './error/apart.js';
import type { Role, Table, Tables } from './error/tables.js';
import { addKeys, type KeySums, type Name } from './plan/scale.js';

/** By key: the square of what it adds to X^T dQ, X^T dK or X^T dV, with tables in place of X. */
export type Squares = Readonly<Record<Role, Float32Array>>;

export class KeySquares {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #tables: Tables;

  constructor(task: Partitions, wasm: Wasm, tables: Tables) {
    this.#task = task;
    this.#wasm = wasm;
    this.#tables = tables;
  }

  /** @param products of all keys that the block sees; E and dS are still in memory. */
  of(rows: RowBlock, products: Products): Squares {
    const { thin, full } = this.#task.plan;
    const { fields } = products.memory;
    const { count } = products;
    // Thin factors: [dS^T Q B_K | dS^T X^Q A_Q^T], and what stands on the right of dS for queries.
    const ofQueries = full.dQ ? fields.d : thin.rq;
    const ofKeys = full.dK ? fields.d : thin.rk;
    const values = full.dV ? fields.dv : thin.rv;
    const none = () => new Float32Array(count);
    const { query, key, value } = this.#tables;
    // What has no table has no adapter: of it the gradients of inputs are made, which are not measured.
    return {
      query: query && ofQueries ? this.#queries(query, rows, products, ofQueries) : none(),
      key: key && ofKeys ? this.#lefts(key, rows, fields.ls, fields.ps, ofKeys, count) : none(),
      value:
        value && values ? this.#lefts(value, rows, fields.lv, fields.pv, values, count) : none(),
    };
  }

  /** |sum_i dS_ij y_i|^2 |k_j|^2 with the narrowed inputs y_i. */
  #queries(
    { data, columns, rank }: Table,
    { partition, first, n }: RowBlock,
    { memory, count }: Products,
    used: number,
  ): Float32Array {
    const wasm = this.#wasm;
    const { fields } = memory;
    const { queryLength } = this.#task.plan.problem.dims;
    const mark = wasm.mark();
    const left = wasm.allocFloats(ROWS * columns);
    // Rows of the tiles come in sixteens.
    const tall = 16 * Math.ceil(n / 16);
    const packed = wasm.allocFloats(packedFloats(tall, columns));
    const weighted = wasm.allocFloats(count * columns);
    const sums = wasm.f64(fields.sum, ROWS);
    const y = wasm.f32(left, ROWS * columns).fill(0);
    for (let i = 0; i < n; i++) {
      const over = inverse(sums[i]!);
      const from = (partition.headGroup.batchItem * queryLength + first + i) * (columns + rank);
      for (let c = 0; c < columns; c++) y[i * columns + c] = over * data[from + c]!;
    }
    wasm.fn.pack(tall, columns, left, columns, packed);
    wasm.fn.gemm(count, columns, tall, fields.t, ROWS, packed, weighted, columns, false);
    const squares = this.#squares(weighted, columns, count);
    const of = this.#timesDistances(squares, fields.us, fields.ps, used);
    wasm.release(mark);
    return of;
  }

  /** |left product|^2 |x_j|^2 with the narrowed inputs x_j. */
  #lefts(
    { data, columns, rank }: Table,
    { partition }: RowBlock,
    at: number,
    pitch: number,
    used: number,
    count: number,
  ): Float32Array {
    const wasm = this.#wasm;
    const { keyLength } = this.#task.plan.problem.dims;
    const width = columns + rank;
    const mark = wasm.mark();
    const left = wasm.allocFloats(count * used);
    wasm.fn.copy_columns(count, used, at, pitch, left, used);
    const squares = this.#squares(left, used, count);
    const rows = slice(data, partition.headGroup.batchItem, keyLength * width).subarray(
      0,
      count * width,
    );
    const inputs = wasm.addressOf?.(rows) ?? wasm.put(rows);
    const of = this.#timesDistances(squares, inputs, width, columns);
    wasm.release(mark);
    return of;
  }

  /** |x_j|^2 of rows (count, n). */
  #squares(x: number, n: number, count: number): Float32Array {
    const dots = this.#wasm.allocFloats(count);
    this.#wasm.fn.row_dots(count, n, x, x, dots);
    return this.#wasm.f32(dots, count).slice();
  }

  /**
   * squares_j |x_j - mean|^2 for the first columns of the rows of x (count, pitch), and their mean with these squares as
   * weights: rows of dS add up to 0 and those of P to 1 for drawn keys too, so what all x_j share has no error.
   */
  #timesDistances(squares: Float32Array, x: number, pitch: number, columns: number): Float32Array {
    const wasm = this.#wasm;
    const count = squares.length;
    const largest = squares.reduce((m, a) => Math.max(m, a), 0);
    if (!(largest > 0)) return squares;
    const rows = wasm.allocFloats(count * columns);
    wasm.fn.copy_columns(count, columns, x, pitch, rows, columns);
    const packed = wasm.allocFloats(packedFloats(count, columns));
    const mean = wasm.allocFloats(columns);
    const shares = squares.map((a) => a / largest);
    const total = shares.reduce((sum, a) => sum + a, 0);
    wasm.fn.pack(count, columns, rows, columns, packed);
    wasm.fn.gemm_tn(1, columns, count, wasm.put(shares), 1, packed, mean, columns, false);
    const minus = wasm.f32(mean, columns);
    for (let c = 0; c < columns; c++) minus[c]! /= -total;
    wasm.fn.add_row(count, columns, mean, rows);
    const distances = this.#squares(rows, columns, count);
    return squares.map((a, j) => a * distances[j]!);
  }
}

/** Far keys of a block one after the other, and what each is worth. */
export interface Worths {
  readonly far: readonly Range[];
  readonly worth: Float64Array;
}

/** Adds the far keys of a block, which stands for `each`. */
export function addFarKeys(to: KeySums, { far, worth }: Worths, squares: Squares, each: number) {
  let from = 0;
  for (const { first, last } of far) {
    const square = (name: Name, k: number) => squares[name][first + k]!;
    addKeys(to, worth.subarray(from), last - first, square, each);
    from += last - first;
  }
}
