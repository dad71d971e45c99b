/** Rows of a head in the coordinates of its basis, as the proxies take them. */
import type { Task } from '../../job.js';
import type { Lease } from '../../tensor/shared-memory.js';
import type { ExactPlan, Workspace } from '../attention/plan.js';
import type { PartitionOfHead, RowBlock } from '../attention/task.js';
import type { Wasm } from '../inner/instance.js';
import { type Floats, pack, slice } from '../inner/operands.js';
import { wordsOfRows } from '../inner/operations/proxies.js';
import type { Basis, HeadPlan } from './plan/plan.js';

/** Rows in panels, as `proxy_coordinates` makes them: the coordinates, the variance that the others leave out, the constant. */
export interface Coordinates {
  /** By head; of one with c coordinates the first wordsOfRows(rows, c) words are used. */
  readonly queries: Int32Array;
  readonly keys: Int32Array;
  /** (head group, keys): |v_j - mean v|, and a share of its root mean square. */
  readonly spread: Float32Array;
  /** (head, Lq): |G_i|^2 where it is known before O is, else 1. */
  readonly sizes: Float32Array;
  /** Coordinates that a head has room for. */
  readonly most: number;
}

export interface CoordinatesTask extends Task<void> {
  readonly kernel: 'sampled';
  readonly step: 'coordinates';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly coordinates: Coordinates;
  readonly head: Omit<PartitionOfHead, 'partition'>;
  readonly headPlan: HeadPlan;
}

export function makeCoordinates(
  plan: ExactPlan,
  heads: readonly HeadPlan[],
  memory: Lease,
): Coordinates {
  const { queryLength } = plan.problem.dims;
  const most = Math.max(...heads.map(({ coordinates }) => coordinates));
  const headGroups = plan.perWave;
  return {
    queries: memory.int32(headGroups * plan.group * wordsOfRows(queryLength, most)),
    keys: memory.int32(headGroups * plan.group * wordsOfRows(plan.keys, most)),
    spread: memory.float32(headGroups * plan.keys),
    sizes: memory.float32(headGroups * plan.group * queryLength),
    most,
  };
}

/** Rows of number `place`: those of a query head, or of the keys as this head sees them. */
export function rowsOfHead(
  rows: Int32Array,
  place: number,
  length: number,
  most: number,
  c: number,
) {
  return slice(rows, place, wordsOfRows(length, most)).subarray(0, wordsOfRows(length, c));
}

export function runCoordinates(task: CoordinatesTask, wasm: Wasm, checkpoint: () => void): void {
  const { plan, workspace, head, headPlan, coordinates } = task;
  const { coordinates: c, basis } = headPlan;
  const { queryLength, headDim: d, valueDim: dv } = plan.problem.dims;
  const headGroup = Math.floor(head.place / plan.group);
  if (head.place % plan.group === 0) {
    const V = slice(workspace.V, headGroup, plan.keys * dv);
    wasm.reset();
    spreadOf(wasm, V, dv, slice(coordinates.spread, headGroup, plan.keys));
  }
  if (c === 0) return;
  const sizes = slice(coordinates.sizes, head.place, queryLength);
  wasm.reset();
  squaresOfUpstream(wasm, plan, head, [{ first: 0, n: queryLength }], sizes);
  const Q = slice(workspace.Q, head.place, queryLength * d);
  const queries = rowsOfHead(coordinates.queries, head.place, queryLength, coordinates.most, c);
  const x = wasm.room(queries);
  mapQueries(wasm, basis, Q, d, [{ c, at: x }], checkpoint);
  wasm.keep(queries, x);
  const K = slice(workspace.K, headGroup, plan.keys * d);
  const keys = rowsOfHead(coordinates.keys, head.place, plan.keys, coordinates.most, c);
  const z = wasm.room(keys);
  mapKeys(wasm, basis, K, d, [{ c, at: z }], checkpoint);
  wasm.keep(keys, z);
}

/** Where rows in so many coordinates lie, or are to lie, in panels. */
export interface Mapped {
  readonly c: number;
  readonly at: number;
}

/** Queries (n, d) in all these numbers of coordinates. */
export function mapQueries(
  wasm: Wasm,
  { queryMap, queryShift }: Basis,
  Q: Float32Array,
  d: number,
  to: readonly Mapped[],
  checkpoint: () => void,
): void {
  map(wasm, Q, d, queryMap, queryShift, to, checkpoint);
}

/** Keys (n, d) in all these numbers of coordinates. */
export function mapKeys(
  wasm: Wasm,
  { keyMap, keyShift }: Basis,
  K: Float32Array,
  d: number,
  to: readonly Mapped[],
  checkpoint: () => void,
): void {
  map(wasm, K, d, keyMap, keyShift, to, checkpoint);
}

/** Rows that are in memory at once: whole panels. */
const TOKENS = 256;

/**
 * to = the first c columns of y = rows (n, d) matrix + shift, its last one, and what the others leave out: the product of
 * that of a query and that of a key is log(2) |query|^2 |key|^2 / (d - c), the variance of the logit in powers of two.
 */
function map(
  wasm: Wasm,
  rows: Float32Array,
  d: number,
  matrix: ArrayLike<number>,
  shift: ArrayLike<number>,
  to: readonly Mapped[],
  checkpoint: () => void,
): void {
  const [n, columns] = [rows.length / d, d + 1];
  const mark = wasm.mark();
  const packed = pack(wasm, Float32Array.from(matrix), d, columns);
  const y = wasm.allocFloats(TOKENS * columns);
  const offset = wasm.put(Float32Array.from(shift));
  const piece = wasm.mark();
  for (let first = 0; first < n; first += TOKENS) {
    checkpoint();
    wasm.release(piece);
    const count = Math.min(TOKENS, n - first);
    const x = wasm.put(rows.subarray(first * d, (first + count) * d));
    wasm.fn.gemm(count, columns, d, x, d, packed, y, columns, false);
    wasm.fn.add_row(count, columns, offset, y);
    for (const { c, at } of to) {
      const rest = Math.sqrt(Math.LN2 / Math.max(1, d - c));
      wasm.fn.proxy_coordinates(count, d, c, rest, y, at + 4 * wordsOfRows(first, c));
    }
  }
  wasm.release(mark);
}

/** Squares of gradients are added up in float32. */
const LARGEST_SQUARE = 2 ** 100;

/** Of the root mean square, what every key has at least: dV takes keys whatever their value is. */
const LEAST_SPREAD = 0.1;

/** |v_j - mean v| of the rows of V (n, dv), and a share of its root mean square. */
export function spreadOf(wasm: Wasm, V: Float32Array, dv: number, to: Float32Array): void {
  const n = V.length / dv;
  const mark = wasm.mark();
  const x = wasm.put(V);
  const numbers = wasm.alloc(8 * n);
  const mean = wasm.alloc(8 * dv);
  const ones = wasm.alloc(8 * dv);
  wasm.f64(numbers, n).fill(1 / n);
  wasm.f64(mean, dv).fill(0);
  wasm.f64(ones, dv).fill(1);
  wasm.fn.combine32(n, dv, 1, numbers, x, mean);
  // |v - m|^2 = sum (v - 2 m) v + |m|^2, in float64.
  const means = wasm.f64(mean, dv);
  const constant = means.reduce((sum, a) => sum + a * a, 0);
  for (let c = 0; c < dv; c++) means[c]! *= -2;
  wasm.fn.forms(n, dv, x, mean, ones, numbers);
  const squares = wasm.f64(numbers, n);
  let total = 0;
  for (let j = 0; j < n; j++) {
    const square = Math.max(0, squares[j]! + constant);
    to[j] = Math.sqrt(square);
    total += square;
  }
  const least = LEAST_SPREAD * Math.sqrt(total / n);
  for (let j = 0; j < n; j++) to[j]! += least;
  wasm.release(mark);
}

/** |G_i|^2 of rows of a head: as given, or of O - Y with O from the client; without it 1. */
export function squaresOfUpstream(
  wasm: Wasm,
  { problem }: ExactPlan,
  { headGroup, head }: Omit<PartitionOfHead, 'partition'>,
  blocks: readonly Pick<RowBlock, 'first' | 'n'>[],
  to: Float32Array,
): void {
  const { objective, dims, known } = problem;
  const { queryLength, heads, valueDim: dv } = dims;
  const output = objective?.kind === 'target' ? known?.output?.data : null;
  if (!objective || output === undefined) return void to.fill(1);
  const pitch = heads * dv;
  const mark = wasm.mark();
  const squares = wasm.allocFloats(TOKENS);
  const [G, O] = [wasm.allocFloats(TOKENS * dv), wasm.allocFloats(TOKENS * dv)];
  const piece = wasm.mark();
  for (const block of blocks) {
    const end = block.first + block.n;
    for (let first = block.first; first < end; first += TOKENS) {
      wasm.release(piece);
      const n = Math.min(TOKENS, end - first);
      const from = (headGroup.batchItem * queryLength + first) * pitch + head * dv;
      const load = (x: Floats, at: number) => {
        const rows = wasm.put(x.subarray(from, from + (n - 1) * pitch + dv));
        wasm.fn.copy_columns(n, dv, rows, pitch, at, dv);
      };
      load(objective.tensor.data, G);
      if (output) {
        load(output, O);
        wasm.fn.combine(n * dv, -1, O, 1, G);
      }
      wasm.fn.row_dots(n, dv, G, G, squares);
      const found = wasm.f32(squares, n);
      for (let i = 0; i < n; i++) to[first + i] = Math.min(LARGEST_SQUARE, found[i]!);
    }
  }
  wasm.release(mark);
}
