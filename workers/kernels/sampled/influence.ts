/** Some blocks of a head over all their keys: what each key adds to the gradients, and how large these are. */
import { keysOfRows } from '../../mask.js';
import { attendRows } from '../attention/attend.js';
import { listed } from '../attention/by-lists.js';
import type { AttentionMemory } from '../attention/memory.js';
import type { RightSums } from '../attention/right.js';
import { inverse } from '../attention/rows.js';
import type { Lanes, RowBlock } from '../attention/task.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { packedFloats } from '../inner/operations.js';
import type { Role, Tables } from './error/tables.js';
import { Listed } from './listed.js';
import type { Name } from './plan/scale.js';

export interface Influence {
  /** By key: the square of what it adds to dQ, dK or dV, or to X^T dQ and so on where X is known. */
  readonly squares: Readonly<Record<Name, Float32Array>>;
  /** Squares of the gradients of this block alone. */
  readonly sizes: Readonly<Record<Name, number>>;
}

export class Influences {
  readonly #task: Lanes;
  readonly #wasm: Wasm;
  /** All keys of the head, as a list. */
  readonly #listed: Listed;
  readonly #everyKey: Int32Array;
  #memory: AttentionMemory;
  /** Keys that the block sees: from the first one on. */
  #count = 0;
  readonly #tables: Tables;
  readonly #left: number;
  readonly #packed: number;
  readonly #weighted: number;
  readonly #dots: number;
  /** What does not change from block to block: |x_j|^2. */
  readonly #kept = new Map<string, Float32Array>();

  constructor(task: Lanes, wasm: Wasm, memory: AttentionMemory, tables: Tables) {
    const columns = Math.max(ROWS, ...Object.values(tables).map((table) => table.columns));
    this.#task = task;
    this.#wasm = wasm;
    this.#memory = memory;
    this.#listed = new Listed(wasm, memory, task.plan.keys);
    this.#everyKey = Int32Array.from({ length: task.plan.keys }, (_, j) => j);
    this.#tables = tables;
    this.#left = wasm.allocFloats(ROWS * columns);
    this.#packed = wasm.allocFloats(packedFloats(ROWS, columns));
    this.#weighted = wasm.allocFloats(task.plan.keys * columns);
    this.#dots = wasm.allocFloats(task.plan.keys);
  }

  of(rows: RowBlock, checkpoint: () => void): Influence {
    const wasm = this.#wasm;
    const { plan } = this.#task;
    const { thin, full } = plan;
    const { last } = keysOfRows(plan.problem, rows.lane.unit.batchItem, {
      first: rows.first,
      last: rows.first + rows.n,
    });
    const all = this.#listed.gather(this.#everyKey.subarray(0, last), () => 1);
    this.#count = last;
    this.#memory = all.memory;
    const { fields } = all.memory;
    const { right } = attendRows(
      this.#task,
      wasm,
      all.memory,
      listed(rows, all.count),
      checkpoint,
      {},
    );
    const none = () => new Float32Array(last);
    // Thin factors: [dS^T Q B_K | dS^T X^Q A_Q^T], and what stands on the right of dS for queries.
    const ofQueries = full.dQ ? fields.d : thin.rq;
    const ofKeys = full.dK ? fields.d : thin.rk;
    const query = ofQueries ? this.#queries(rows, ofQueries) : none();
    const key = ofKeys ? this.#rows(fields.ls, fields.ps, ofKeys) : none();
    const values = full.dV ? fields.dv : thin.rv;
    const value = values ? this.#rows(fields.lv, fields.pv, values) : none();
    const sizes = {
      query: ofQueries ? this.#querySize(rows, ofQueries, right) : 0,
      key: ofKeys ? this.#keySize('key', rows, fields.ls, fields.ps, ofKeys, key) : 0,
      value: values ? this.#keySize('value', rows, fields.lv, fields.pv, values, value) : 0,
    };
    this.#weigh('key', rows, key);
    this.#weigh('value', rows, value);
    return { squares: { query, key, value }, sizes };
  }

  /** |sum_i dS_ij y_i|^2 |k_j|^2 with the narrowed inputs y_i, or sum_i dS_ij^2 |k_j|^2. */
  #queries(rows: RowBlock, used: number): Float32Array {
    const wasm = this.#wasm;
    const keys = this.#count;
    const { fields } = this.#memory;
    const sums = wasm.f64(fields.sum, ROWS);
    const { data, columns } = this.#narrow('query', rows);
    const left = wasm.f32(this.#left, ROWS * columns).fill(0);
    for (let i = 0; i < rows.n; i++) {
      const over = inverse(sums[i]!);
      for (let c = 0; c < columns; c++) left[i * columns + c] = over * data(i, c);
    }
    wasm.fn.pack(ROWS, columns, this.#left, columns, this.#packed);
    wasm.fn.gemm(keys, columns, ROWS, fields.t, ROWS, this.#packed, this.#weighted, columns, false);
    const squares = this.#rows(this.#weighted, columns, columns);
    const right = this.#rows(fields.us, fields.ps, used);
    return squares.map((x, j) => x * right[j]!);
  }

  /** Rows of X Omega, or of the identity: then what is weighed are the rows one by one. */
  #narrow(role: Role, { lane, first }: RowBlock) {
    const table = this.#tables[role];
    if (!table) return { columns: ROWS, data: (i: number, c: number) => Number(i === c) };
    const { queryLength } = this.#task.plan.problem.dims;
    const width = table.columns + table.rank;
    const corner = (lane.unit.batchItem * queryLength + first) * width;
    return {
      columns: table.columns,
      data: (i: number, c: number) => table.data[corner + i * width + c]!,
    };
  }

  /** Squares of the rows of x (keys, pitch), of their first columns. */
  #rows(at: number, pitch: number, used: number): Float32Array {
    const keys = this.#count;
    if (used === pitch) {
      this.#wasm.fn.row_dots(keys, pitch, at, at, this.#dots);
      return this.#wasm.f32(this.#dots, keys).slice();
    }
    const x = this.#wasm.f32(at, keys * pitch);
    const out = new Float32Array(keys);
    for (let j = 0, row = 0; j < keys; j++, row += pitch) {
      let sum = 0;
      for (let c = row; c < row + used; c++) sum += x[c]! * x[c]!;
      out[j] = sum;
    }
    return out;
  }

  #querySize(rows: RowBlock, used: number, sums: RightSums): number {
    const { ps, pv } = this.#memory.fields;
    const right = new Float32Array(ROWS * ps);
    sums.addTo(rows.n, 1, right, new Float32Array(ROWS * pv));
    if (!this.#tables.query) {
      return right.reduce((sum, x, k) => sum + (k % ps < used ? x * x : 0), 0);
    }
    const { columns, data } = this.#narrow('query', rows);
    let total = 0;
    for (let a = 0; a < columns; a++) {
      for (let c = 0; c < used; c++) {
        let sum = 0;
        for (let i = 0; i < rows.n; i++) sum += data(i, a) * right[i * ps + c]!;
        total += sum * sum;
      }
    }
    return total;
  }

  /** |Y^T L|^2 for left products L (keys, pitch) and the narrowed inputs Y, or |L|^2. */
  #keySize(
    role: 'key' | 'value',
    { lane }: RowBlock,
    at: number,
    pitch: number,
    used: number,
    squares: Float32Array,
  ): number {
    const table = this.#tables[role];
    if (!table) return squares.reduce((sum, x) => sum + x, 0);
    const wasm = this.#wasm;
    const { keyLength } = this.#task.plan.problem.dims;
    const width = table.columns + table.rank;
    const corner = lane.unit.batchItem * keyLength * width;
    const mark = wasm.mark();
    const n = Math.min(this.#count, keyLength);
    const y = wasm.put(table.data.subarray(corner, corner + n * width));
    const packed = wasm.allocFloats(packedFloats(n, used));
    const out = wasm.allocFloats(width * used);
    wasm.fn.pack(n, used, at, pitch, packed);
    wasm.fn.gemm_tn(table.columns, used, n, y, width, packed, out, used, false);
    const total = wasm.f32(out, table.columns * used).reduce((sum, x) => sum + x * x, 0);
    wasm.release(mark);
    return total;
  }

  #once(name: string, make: () => Float32Array): Float32Array {
    const known = this.#kept.get(name) ?? make();
    this.#kept.set(name, known);
    return known;
  }

  /** Times |x_j|^2 of the narrowed inputs. */
  #weigh(role: 'key' | 'value', { lane }: RowBlock, squares: Float32Array): void {
    const table = this.#tables[role];
    if (!table) return;
    const { keyLength } = this.#task.plan.problem.dims;
    const width = table.columns + table.rank;
    const corner = lane.unit.batchItem * keyLength * width;
    const sizes = this.#once(role, () =>
      Float32Array.from({ length: keyLength }, (_, j) => {
        let sum = 0;
        const row = corner + j * width;
        for (let c = row; c < row + table.columns; c++) sum += table.data[c]! * table.data[c]!;
        return sum;
      }),
    );
    for (let j = 0; j < squares.length; j++) squares[j]! *= sizes[j]!;
  }
}
