/**
 * What the products of a block add to each gradient, narrowed to a few numbers: by the tables of random signs for what
 * meets the inputs, as they are otherwise. They are linear, so that differences of blocks are differences of these.
 */
import {
  type AttentionProblem,
  PROJECTIONS,
  type ProjectionName,
  type Rotary,
} from '../../../problem.js';
import type { Partitions, RowBlock } from '../../attention/task.js';
import type { Wasm } from '../../inner/instance.js';
import { type Floats, pack, slice } from '../../inner/operands.js';
import { ROLES } from '../../result.js';
import type { Products } from './apart.js';
import type { Role, Table, Tables } from './tables.js';

/** Numbers whose squares add up to about that of a contribution. */
export type Narrowed = Float32Array;

interface Contribution {
  /** By role, at the width at which it meets dS or P: what the plan counts with. */
  readonly roles: Readonly<Partial<Record<Role, Narrowed>>>;
  /** By tensor, under the names of the answer's `error`. */
  readonly tensors: Readonly<Record<string, Narrowed>>;
}

export function squareOf(x: Narrowed): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k]! * x[k]!;
  return sum;
}

function multiple(factor: number, x: Narrowed): Narrowed {
  const out = new Float32Array(x.length);
  for (let k = 0; k < out.length; k++) out[k] = factor * x[k]!;
  return out;
}

/** Rows in memory, and the tokens they belong to: these, or `count` ones from `first` on. */
interface Side {
  readonly at: number;
  readonly pitch: number;
  readonly tokens: Int32Array | null;
  readonly first: number;
  readonly count: number;
}

const FULL = { q_proj: 'dQ', k_proj: 'dK', v_proj: 'dV' } as const;

export class Contributions {
  readonly #task: Partitions;
  readonly #wasm: Wasm;
  readonly #tables: Tables;
  readonly #problem: AttentionProblem;

  constructor(task: Partitions, wasm: Wasm, tables: Tables) {
    this.#task = task;
    this.#wasm = wasm;
    this.#tables = tables;
    this.#problem = task.plan.problem as AttentionProblem;
  }

  of(rows: RowBlock, products: Products): Contribution {
    const roles: Partial<Record<Role, Narrowed>> = {};
    const tensors: Record<string, Narrowed> = {};
    for (const name of PROJECTIONS) {
      const table = this.#tables[ROLES[name]];
      if (!table) continue;
      const mark = this.#wasm.mark();
      const own = this.#task.plan.full[FULL[name]]
        ? this.#full(rows, products, name, table)
        : this.#thin(rows, products, name, table);
      roles[ROLES[name]] = own.role;
      const factor =
        (this.#problem.projections[name].adapter?.scaling ?? 1) *
        (name === 'v_proj' ? 1 : this.#problem.scaling);
      for (const [tensor, x] of Object.entries(own.tensors)) {
        tensors[tensor] = multiple(factor, x);
      }
      this.#wasm.release(mark);
    }
    return { roles, tensors };
  }

  /** Right products of rows, or left ones of keys: of the columns from `first` on. */
  #side(rows: RowBlock, products: Products, role: Role, first: number): Side {
    const { ps, pv, right } = this.#task.plan.thin;
    const { fields } = products.memory;
    if (role === 'query') {
      const at = this.#wasm.put(products.right);
      return { at, pitch: right, tokens: null, first: rows.first, count: rows.n };
    }
    const [at, pitch] = role === 'key' ? [fields.ls, ps] : [fields.lv, pv];
    const { index, count } = products;
    return { at: at + 4 * first, pitch, tokens: index, first: 0, count };
  }

  /** dQ, dK or dV: states, or an adapter behind rotary positions. */
  #full(rows: RowBlock, products: Products, name: ProjectionName, table: Table) {
    const wasm = this.#wasm;
    const { headDim, valueDim, heads, keyValueHeads } = this.#problem.dims;
    const { partition } = rows;
    const role = ROLES[name];
    const { adapter, weight } = this.#problem.projections[name];
    const width = role === 'value' ? valueDim : headDim;
    const rotary = weight ? this.#problem.rotary : this.#problem.projectedFrom?.rotary;
    const side = this.#side(rows, products, role, 0);
    const rotated = rotary && role !== 'value' ? this.#unrotated(rotary, side, width, rows) : side;
    const columns = this.#columns(table, table.columns + table.rank, role, rows, rotated);
    const all = this.#product(columns, rotated, width);
    const narrow = all.slice(0, table.columns * width);
    if (!weight || !adapter) return { role: narrow, tensors: { [role]: narrow } };
    const head =
      role === 'query' ? partition.head : Math.floor((partition.head * keyValueHeads) / heads);
    const r = adapter.rank;
    const B = pack(wasm, slice(adapter.B.data, head, width * r), width, r);
    const ofA = wasm.allocFloats(table.columns * r);
    wasm.fn.gemm(table.columns, r, width, wasm.put(narrow), width, B, ofA, r, false);
    return {
      role: narrow,
      tensors: {
        [`${name}.lora_A`]: wasm.f32(ofA, table.columns * r).slice(),
        [`${name}.lora_B`]: all.slice(table.columns * width),
      },
    };
  }

  /** The thin products of an adapter. */
  #thin(rows: RowBlock, products: Products, name: ProjectionName, table: Table) {
    const { plan, workspace } = this.#task;
    const { rq, rk, rv } = plan.thin;
    const { headDim: d } = this.#problem.dims;
    const { partition } = rows;
    const role = ROLES[name];
    const r = { query: rq, key: rk, value: rv }[role];
    const side = this.#side(rows, products, role, 0);
    const narrow = this.#product(this.#columns(table, table.columns, role, rows, side), side, r);
    const left = () => {
      const keys = this.#side(rows, products, 'key', rk);
      const K = slice(workspace.K, Math.floor(partition.place / plan.group), plan.keys * d);
      return this.#product({ ...this.#rows(K, d, keys), width: d }, keys, r);
    };
    const lora_B = { query: left, key: () => products.outK, value: () => products.outV }[role]();
    return {
      role: narrow,
      tensors: { [`${name}.lora_A`]: narrow, [`${name}.lora_B`]: Float32Array.from(lora_B) },
    };
  }

  /** A copy of rows whose rotation is undone. */
  #unrotated({ cos, sin }: Rotary, side: Side, width: number, { partition }: RowBlock): Side {
    const wasm = this.#wasm;
    const { count } = side;
    const at = wasm.allocFloats(count * width);
    wasm.fn.copy_columns(count, width, side.at, side.pitch, at, width);
    const rotaryWidth = cos.shape[2];
    const [c, s] = [cos, sin].map(({ data, shape: [items, length] }) => {
      const item = items === 1 ? 0 : partition.headGroup.batchItem;
      return this.#rows(slice(data as Floats, item, length! * rotaryWidth), rotaryWidth, side);
    });
    wasm.fn.rotate(count, width, rotaryWidth, c!.at, s!.at, at, true);
    return { ...side, at, pitch: width };
  }

  /** The first columns of a table of a batch item, for the rows of a side. */
  #columns(table: Table, width: number, role: Role, { partition }: RowBlock, side: Side) {
    const { queryLength, keyLength } = this.#problem.dims;
    const length = role === 'query' ? queryLength : keyLength;
    const pitch = table.columns + table.rank;
    const data = slice(table.data, partition.headGroup.batchItem, length * pitch);
    return { ...this.#rows(data, pitch, side), width };
  }

  /** The rows of x (.., pitch) that belong to a side: where they lie, or a copy. */
  #rows(x: Floats, pitch: number, { tokens, first, count }: Side) {
    const wasm = this.#wasm;
    if (!tokens) return { at: wasm.put(x.subarray(first * pitch, (first + count) * pitch)), pitch };
    const at = wasm.allocFloats(count * pitch);
    const index = wasm.alloc(4 * count);
    wasm.i32(index, count).set(tokens);
    wasm.fn.gather_rows(count, pitch, index, wasm.put(x), at);
    return { at, pitch };
  }

  /** left^T right (width, columns) for the first columns of a side. */
  #product(
    left: { readonly at: number; readonly width: number; readonly pitch: number },
    { at, pitch, count }: Side,
    columns: number,
  ): Narrowed {
    const wasm = this.#wasm;
    const { width } = left;
    const packed = wasm.allocFloats(16 * Math.ceil(columns / 16) * count);
    const out = wasm.allocFloats(width * columns);
    wasm.fn.pack(count, columns, at, pitch, packed);
    wasm.fn.gemm_tn(width, columns, count, left.at, left.pitch, packed, out, columns, false);
    return wasm.f32(out, width * columns).slice();
  }
}
