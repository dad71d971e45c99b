/** What each key adds to the gradients by way of one block of rows: squares, from the products over all keys. */
import { inverse } from '../attention/rows.js';
import type { Partitions, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations/products.js';
import { sizeOf, type Worths } from './draw.js';
import type { Products } from './error/apart.js';
import type { Table, Tables } from './error/tables.js';
import { type KeySums, NAMES, type Name } from './plan/scale.js';

export class KeySquares {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #tables: Tables;
  /** For each key the square of what it adds to X^T dQ, X^T dK or X^T dV, with tables in place of X. */
  readonly #squares: Readonly<Record<Name, number>>;

  constructor(task: Partitions, wasm: Wasm, tables: Tables) {
    this.#task = task;
    this.#wasm = wasm;
    this.#tables = tables;
    const [query, key, value] = NAMES.map(() => wasm.allocFloats(task.plan.keys));
    this.#squares = { query: query!, key: key!, value: value! };
  }

  /** @param products of all keys that the block sees; E and dS are still in memory. */
  load(rows: RowBlock, products: Products): void {
    const wasm = this.#wasm;
    const { thin, full } = this.#task.plan;
    const { fields } = products.memory;
    // Thin factors: [dS^T Q B_K | dS^T X^Q A_Q^T], and what stands on the right of dS for queries.
    const used = {
      query: full.dQ ? fields.d : thin.rq,
      key: full.dK ? fields.d : thin.rk,
      value: full.dV ? fields.dv : thin.rv,
    };
    const mark = wasm.mark();
    for (const name of NAMES) {
      const table = this.#tables[name];
      // What has no table has no adapter: of it the gradients of inputs are made, which are not measured.
      if (!table || used[name] === 0) wasm.f32(this.#squares[name], products.count).fill(0);
      else if (name === 'query') this.#queries(table, rows, products, used.query);
      else this.#lefts(name, table, rows, products, used[name]);
    }
    wasm.release(mark);
  }

  /** Adds the far keys of the block that was loaded, which stands for `each`. */
  addTo(to: KeySums, { far, worth, share, even }: Worths, each: number): void {
    const wasm = this.#wasm;
    const { query, key, value } = this.#squares;
    const mark = wasm.mark();
    const sums = wasm.alloc(to.byteLength);
    wasm.f64(sums, to.length).set(to);
    let from = 0;
    for (const range of far) {
      const [a, b, c] = [query, key, value].map((squares) => squares + 4 * range.first);
      wasm.fn.add_keys(
        ...([sizeOf(range), each, share, even, worth + 8 * from] as const),
        ...([a!, b!, c!, sums] as const),
      );
      from += sizeOf(range);
    }
    to.set(wasm.f64(sums, to.length));
    wasm.release(mark);
  }

  /** |sum_i dS_ij y_i|^2 |k_j|^2 with the narrowed inputs y_i. */
  #queries(
    { data, columns, rank }: Table,
    { partition, first, n }: RowBlock,
    { memory, count }: Products,
    used: number,
  ): void {
    const wasm = this.#wasm;
    const { fields } = memory;
    const { queryLength } = this.#task.plan.problem.dims;
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
    this.#of('query', count, [weighted, columns, columns], [fields.us, fields.ps, used]);
  }

  /** |left product|^2 |x_j|^2 with the narrowed inputs x_j. */
  #lefts(
    role: 'key' | 'value',
    { data, columns, rank }: Table,
    { partition }: RowBlock,
    { memory: { fields }, count }: Products,
    used: number,
  ): void {
    const { keyLength } = this.#task.plan.problem.dims;
    const width = columns + rank;
    const inputs = this.#wasm.put(
      slice(data, partition.headGroup.batchItem, keyLength * width).subarray(0, count * width),
    );
    const [at, pitch] = role === 'key' ? [fields.ls, fields.ps] : [fields.lv, fields.pv];
    this.#of(role, count, [at, pitch, used], [inputs, width, columns]);
  }

  /**
   * |a_j|^2 |x_j - mean|^2, and their mean with these squares as weights: rows of dS add up to 0 and those of P to 1
   * for drawn keys too, so what all x_j share has no error.
   */
  #of(
    name: Name,
    count: number,
    [a, lda, n]: readonly [at: number, pitch: number, columns: number],
    [x, ldx, p]: readonly [at: number, pitch: number, columns: number],
  ): void {
    const mean = this.#wasm.allocFloats(p);
    this.#wasm.fn.key_squares(count, n, a, lda, p, x, ldx, mean, this.#squares[name]);
  }
}
