/**
 * How far the drawn keys of a block leave each gradient from what all keys would give: the draw is split into two, each
 * with twice the weights, and a quarter of the square of the difference between the two contributions is the variance
 * of the block's own. Blocks are drawn independently, so that those of a share of them say what all add up to.
 */
import type { AttentionProblem, ProjectionName, Rotary } from '../../../problem.js';
import type { AttentionMemory } from '../../attention/memory.js';
import type { RightSums } from '../../attention/right.js';
import { sinkGradients } from '../../attention/rows.js';
import type { Lanes, RowBlock } from '../../attention/task.js';
import { ROWS } from '../../inner/block.js';
import type { Wasm } from '../../inner/instance.js';
import { type Floats, pack, slice } from '../../inner/operands.js';
import { ROLES } from '../../result.js';
import { rotateBack } from '../../rotary.js';
import type { Listed } from '../listed.js';
import type { Role, Table, Tables } from './tables.js';

/** Keys, and how many each stands for. */
export interface Half {
  readonly index: Int32Array;
  weight(k: number): number;
}

/** Rows of a difference: which tokens they belong to, and where they are in memory. */
interface Side {
  readonly tokens: Int32Array;
  readonly at: number;
  readonly width: number;
}

/** Sums of squares by name of the tensor, as the answer's `error` has it. */
export type Squares = Record<string, number>;

export class Halves {
  readonly #task: Lanes;
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #tables: Tables;
  readonly #listed: Listed;
  readonly #problem: AttentionProblem;
  readonly #rightS: number;
  readonly #rightV: number;
  readonly #leftS: number;
  readonly #leftV: number;

  constructor(task: Lanes, wasm: Wasm, memory: AttentionMemory, listed: Listed, tables: Tables) {
    const { ps, pv } = memory.fields;
    this.#task = task;
    this.#wasm = wasm;
    this.#memory = memory;
    this.#tables = tables;
    this.#listed = listed;
    this.#problem = task.plan.problem as AttentionProblem;
    this.#rightS = wasm.allocFloats(ROWS * ps);
    this.#rightV = wasm.allocFloats(ROWS * pv);
    this.#leftS = wasm.allocFloats(2 * listed.capacity * ps);
    this.#leftV = wasm.allocFloats(2 * listed.capacity * pv);
  }

  /** Adds the squares of a block's differences. @param attend all passes over the keys of a half. */
  measure(
    rows: RowBlock,
    halves: readonly Half[],
    attend: (memory: AttentionMemory, listed: number) => RightSums,
    squares: Squares,
  ): void {
    const wasm = this.#wasm;
    const { ps, pv, ls } = this.#task.plan.thin;
    const n = rows.n;
    wasm.f32(this.#rightS, n * ps).fill(0);
    wasm.f32(this.#rightV, n * pv).fill(0);
    let [before, sink] = [0, 0];
    const tokens = new Int32Array(halves.reduce((sum, { index }) => sum + index.length, 0));
    halves.forEach(({ index, weight }, half) => {
      const sign = half ? -1 : 1;
      const { memory, count } = this.#listed.gather(index, weight);
      const right = attend(memory, count);
      right.addTo(n, sign, wasm.f32(this.#rightS, n * ps), wasm.f32(this.#rightV, n * pv));
      for (const x of sinkGradients(this.#task, wasm, memory, rows)) sink += sign * x;
      const copy = (from: number, width: number, to: number) => {
        const size = count * width;
        const x = wasm.f32(from, size);
        const y = wasm.f32(to + 4 * before * width, size);
        for (let k = 0; k < size; k++) y[k] = sign * x[k]!;
      };
      if (ls) copy(memory.fields.ls, ps, this.#leftS);
      if (pv) copy(memory.fields.lv, pv, this.#leftV);
      tokens.set(index, before);
      before += count;
    });
    if (this.#problem.sinks) add(squares, 'sinks', sink * sink);
    const ofRows = Int32Array.from({ length: n }, (_, i) => rows.first + i);
    this.#full(rows, ofRows, tokens, squares);
    this.#thin(rows, ofRows, tokens, squares);
  }

  /** dQ, dK and dV themselves. */
  #full(rows: RowBlock, ofRows: Int32Array, ofKeys: Int32Array, squares: Squares): void {
    const { full, thin } = this.#task.plan;
    const { headDim: d, valueDim: dv, heads, keyValueHeads } = this.#problem.dims;
    const { head } = rows.lane;
    const shared = Math.floor((head * keyValueHeads) / heads);
    const beta = this.#problem.scaling;
    const S = thin.ps;
    if (full.dQ) {
      const side = { tokens: ofRows, at: this.#rightS, width: S };
      this.#widths(rows, 'q_proj', side, d, head, beta, squares);
    }
    if (full.dK) {
      const side = { tokens: ofKeys, at: this.#leftS, width: S };
      this.#widths(rows, 'k_proj', side, d, shared, beta, squares);
    }
    if (full.dV) {
      const side = { tokens: ofKeys, at: this.#leftV, width: thin.pv };
      this.#widths(rows, 'v_proj', side, dv, shared, 1, squares);
    }
  }

  /** One projection at full width: its adapter's gradients, or the gradient of attention states. */
  #widths(
    { lane }: RowBlock,
    name: ProjectionName,
    { tokens, at, width }: Side,
    used: number,
    head: number,
    factor: number,
    squares: Squares,
  ): void {
    const wasm = this.#wasm;
    const { rotary, projections, projectedFrom } = this.#problem;
    const { adapter, weight } = projections[name];
    const role = ROLES[name];
    const { batchItem } = lane.unit;
    const table = this.#tables[role];
    const turned = weight ? rotary : table && projectedFrom?.rotary;
    if (turned && name !== 'v_proj') this.#rotateBack(turned, batchItem, tokens, at, width, used);
    if (!weight && !table) {
      const x = wasm.f32(at, tokens.length * width);
      return add(squares, role, factor * factor * squareOfRows(tokens, x, width));
    }
    if (!table) return;
    const mark = wasm.mark();
    const sketch = this.#columns(table, role, batchItem, tokens, 0, table.columns);
    if (!weight) {
      const square = this.#product(sketch, table.columns, at, width, used, tokens.length);
      add(squares, role, factor * factor * square);
    } else if (adapter) {
      const r = adapter.rank;
      const scale = (adapter.scaling * factor) ** 2;
      const B = pack(wasm, slice(adapter.B.data, head, used * r), used, r);
      const up = wasm.allocFloats(tokens.length * r);
      wasm.fn.gemm(tokens.length, r, used, at, width, B, up, r, false);
      const ofA = this.#product(sketch, table.columns, up, r, r, tokens.length);
      add(squares, `${name}.lora_A`, scale * ofA);
      const low = this.#columns(table, role, batchItem, tokens, table.columns, r);
      add(squares, `${name}.lora_B`, scale * this.#product(low, r, at, width, used, tokens.length));
    }
    wasm.release(mark);
  }

  /** The thin products of adapters that are not taken at full width. */
  #thin({ lane }: RowBlock, ofRows: Int32Array, ofKeys: Int32Array, squares: Squares): void {
    const { plan, workspace } = this.#task;
    const { rq, rk, rv, ps, pv } = plan.thin;
    const { dims, projections, scaling: beta } = this.#problem;
    const { headDim: d, valueDim: dv } = dims;
    const { batchItem } = lane.unit;
    const wasm = this.#wasm;
    const scaleOf = (name: ProjectionName) =>
      (projections[name].adapter!.scaling * (name === 'v_proj' ? 1 : beta)) ** 2;
    const inputs = (
      name: ProjectionName,
      tokens: Int32Array,
      at: number,
      pitch: number,
      r: number,
    ) => {
      const table = this.#tables[ROLES[name]]!;
      const left = this.#columns(table, ROLES[name], batchItem, tokens, 0, table.columns);
      const square = this.#product(left, table.columns, at, pitch, r, tokens.length);
      add(squares, `${name}.lora_A`, scaleOf(name) * square);
    };
    const rowsOf = (name: ProjectionName, left: number, width: number, side: Side, r: number) => {
      const square = this.#product(left, width, side.at, side.width, r, side.tokens.length);
      add(squares, `${name}.lora_B`, scaleOf(name) * square);
    };
    const mark = wasm.mark();
    if (rq) {
      inputs('q_proj', ofRows, this.#rightS, ps, rq);
      const K = slice(workspace.K, Math.floor(lane.place / plan.group), plan.keys * d);
      const side = { tokens: ofKeys, at: this.#leftS + 4 * rk, width: ps };
      rowsOf('q_proj', this.#gather(K, d, ofKeys, 0, d), d, side, rq);
      wasm.release(mark);
    }
    if (rk) {
      inputs('k_proj', ofKeys, this.#leftS, ps, rk);
      const side = { tokens: ofRows, at: this.#rightS + 4 * rq, width: ps };
      rowsOf('k_proj', this.#memory.qRows, d, side, rk);
      wasm.release(mark);
    }
    if (rv) {
      inputs('v_proj', ofKeys, this.#leftV, pv, rv);
      rowsOf('v_proj', this.#memory.gRows, dv, { tokens: ofRows, at: this.#rightV, width: pv }, rv);
      wasm.release(mark);
    }
  }

  #rotateBack(
    rotary: Rotary,
    batchItem: number,
    tokens: Int32Array,
    at: number,
    width: number,
    used: number,
  ): void {
    const rows = this.#wasm.f32(at, tokens.length * width);
    tokens.forEach((token, k) => {
      rotateBack(rotary, batchItem, token, rows.subarray(k * width, k * width + used));
    });
  }

  /** Columns [first, first + count) of a table, of some tokens. */
  #columns(
    table: Table,
    role: Role,
    batchItem: number,
    tokens: Int32Array,
    first: number,
    count: number,
  ): number {
    const { queryLength, keyLength } = this.#problem.dims;
    const length = role === 'query' ? queryLength : keyLength;
    const width = table.columns + table.rank;
    return this.#gather(slice(table.data, batchItem, length * width), width, tokens, first, count);
  }

  /** Columns [first, first + count) of rows of x (.., width). */
  #gather(x: Floats, width: number, rows: Int32Array, first: number, count: number): number {
    const at = this.#wasm.allocFloats(rows.length * count);
    const to = this.#wasm.f32(at, rows.length * count);
    rows.forEach((row, k) => {
      const from = row * width + first;
      to.set(x.subarray(from, from + count), k * count);
    });
    return at;
  }

  /** |left^T right|^2 for left (n, a) and the first r columns of right (n, pitch). */
  #product(left: number, a: number, right: number, pitch: number, r: number, n: number): number {
    const wasm = this.#wasm;
    const mark = wasm.mark();
    const packed = wasm.allocFloats(16 * Math.ceil(r / 16) * n);
    const out = wasm.allocFloats(a * r);
    wasm.fn.pack(n, r, right, pitch, packed);
    wasm.fn.gemm_tn(a, r, n, left, a, packed, out, r, false);
    let sum = 0;
    for (const x of wasm.f32(out, a * r)) sum += x * x;
    wasm.release(mark);
    return sum;
  }
}

/** Sum of the squares of rows x (tokens, width), those of one token added up: it may be in both halves. */
function squareOfRows(tokens: Int32Array, x: Float32Array, width: number): number {
  const first = new Map<number, number>();
  let sum = 0;
  tokens.forEach((token, k) => {
    const known = first.get(token);
    if (known === undefined) first.set(token, k);
    const before = (known ?? 0) * width;
    for (let c = 0, at = k * width; c < width; c++, at++) {
      const other = known === undefined ? 0 : x[before + c]!;
      // |a + b|^2 - |a|^2, or |b|^2.
      sum += x[at]! * (x[at]! + 2 * other);
    }
  });
  return sum;
}

function add(squares: Squares, name: string, square: number): void {
  squares[name] = (squares[name] ?? 0) + square;
}
