/** What each key adds to the gradients by way of one block of rows: squares, from the products over all keys. */
import type { Range } from '../../mask.js';
import { inverse } from '../attention/rows.js';
import type { Lanes, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { packedFloats } from '../inner/operations.js';
import type { Products } from './error/apart.js';
import type { Role, Tables } from './error/tables.js';
import { addKeys, type KeySums, type Name } from './plan/scale.js';

/** By key: the square of what it adds to X^T dQ, X^T dK or X^T dV, with tables in place of X. */
export type Squares = Readonly<Record<Role, Float32Array>>;

export class KeySquares {
  readonly #task: Lanes;
  readonly #wasm: Wasm;
  readonly #tables: Tables;

  constructor(task: Lanes, wasm: Wasm, tables: Tables) {
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
    return {
      query: ofQueries ? this.#queries(rows, products, ofQueries) : none(),
      key: ofKeys
        ? this.#weighed('key', rows, this.#rows(fields.ls, fields.ps, ofKeys, count))
        : none(),
      value: values
        ? this.#weighed('value', rows, this.#rows(fields.lv, fields.pv, values, count))
        : none(),
    };
  }

  /** |sum_i dS_ij y_i|^2 |k_j|^2 with the narrowed inputs y_i. */
  #queries({ lane, first, n }: RowBlock, { memory, count }: Products, used: number): Float32Array {
    const wasm = this.#wasm;
    const { fields } = memory;
    const { data, columns, rank } = this.#tables.query!;
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
      const from = (lane.unit.batchItem * queryLength + first + i) * (columns + rank);
      for (let c = 0; c < columns; c++) y[i * columns + c] = over * data[from + c]!;
    }
    wasm.fn.pack(tall, columns, left, columns, packed);
    wasm.fn.gemm(count, columns, tall, fields.t, ROWS, packed, weighted, columns, false);
    const squares = this.#rows(weighted, columns, columns, count);
    const right = this.#rows(fields.us, fields.ps, used, count);
    wasm.release(mark);
    return squares.map((x, j) => x * right[j]!);
  }

  /** Squares of the rows of x (count, pitch), of their first columns. */
  #rows(at: number, pitch: number, used: number, count: number): Float32Array {
    const wasm = this.#wasm;
    const mark = wasm.mark();
    const dots = wasm.allocFloats(count);
    const x = used === pitch ? at : wasm.allocFloats(count * used);
    if (used !== pitch) wasm.fn.copy_columns(count, used, at, pitch, x, used);
    wasm.fn.row_dots(count, used, x, x, dots);
    wasm.release(mark);
    return wasm.f32(dots, count).slice();
  }

  /** Times |x_j|^2 of the narrowed inputs. */
  #weighed(role: 'key' | 'value', { lane }: RowBlock, squares: Float32Array): Float32Array {
    const { data, columns, rank } = this.#tables[role]!;
    const { keyLength } = this.#task.plan.problem.dims;
    const width = columns + rank;
    const last = Math.min(squares.length, keyLength);
    for (let j = 0, row = lane.unit.batchItem * keyLength * width; j < last; j++, row += width) {
      let sum = 0;
      for (let c = row; c < row + columns; c++) sum += data[c]! * data[c]!;
      squares[j]! *= sum;
    }
    return squares;
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
