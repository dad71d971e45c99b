/** Rows of a head in the coordinates of its basis, as the proxies take them. */
import type { Task } from '../../job.js';
import type { Lease } from '../../tensor/shared-memory.js';
import type { ExactPlan, Workspace } from '../attention/plan.js';
import type { PartitionOfHead, RowBlock } from '../attention/task.js';
import type { Wasm } from '../inner/instance.js';
import { pack, slice } from '../inner/operands.js';
import type { Basis, HeadPlan } from './plan/plan.js';

/** Rows (.., c + 2): c coordinates, the constant of the row, and the variance that the others leave out. */
export interface Coordinates {
  /** (head, Lq, pitch) and (head, keys, pitch); of a head with c coordinates rows are c + 2 numbers. */
  readonly queries: Float32Array;
  readonly keys: Float32Array;
  /** (head group, keys): |v_j - mean v|, and a share of its root mean square. */
  readonly spread: Float32Array;
  /** (head, Lq): |G_i|^2 where it is known before O is, else 1. */
  readonly sizes: Float32Array;
  readonly pitch: number;
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
  const pitch = Math.max(0, ...heads.map(({ coordinates }) => coordinates)) + 2;
  const headGroups = plan.waves[0]!.length;
  return {
    queries: memory.float32(headGroups * plan.group * queryLength * pitch),
    keys: memory.float32(headGroups * plan.group * plan.keys * pitch),
    spread: memory.float32(headGroups * plan.keys),
    sizes: memory.float32(headGroups * plan.group * queryLength),
    pitch,
  };
}

/** Rows of number `place`: those of a query head, or of the keys as this head sees them. */
export function rowsOfHead(
  rows: Float32Array,
  place: number,
  length: number,
  pitch: number,
  c: number,
) {
  return slice(rows, place, length * pitch).subarray(0, length * (c + 2));
}

export function runCoordinates(task: CoordinatesTask, wasm: Wasm, checkpoint: () => void): void {
  const { plan, workspace, head, headPlan, coordinates } = task;
  const { coordinates: c, basis } = headPlan;
  const { queryLength, headDim: d, valueDim: dv } = plan.problem.dims;
  const headGroup = Math.floor(head.place / plan.group);
  if (head.place % plan.group === 0) {
    const V = slice(workspace.V, headGroup, plan.keys * dv);
    spreadOf(V, dv, slice(coordinates.spread, headGroup, plan.keys));
  }
  if (c === 0) return;
  const sizes = slice(coordinates.sizes, head.place, queryLength);
  squaresOfUpstream(plan, head, [{ first: 0, n: queryLength }], sizes);
  wasm.reset();
  const Q = slice(workspace.Q, head.place, queryLength * d);
  const queries = rowsOfHead(coordinates.queries, head.place, queryLength, coordinates.pitch, c);
  mapQueries(wasm, basis, Q, d, [{ c, rows: queries }], checkpoint);
  const K = slice(workspace.K, headGroup, plan.keys * d);
  const keys = rowsOfHead(coordinates.keys, head.place, plan.keys, coordinates.pitch, c);
  mapKeys(wasm, basis, K, d, [{ c, rows: keys }], checkpoint);
}

/** Rows in so many coordinates, (n, c + 2). */
export interface Mapped {
  readonly c: number;
  readonly rows: Float32Array;
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
  map(wasm, Q, d, queryMap, queryShift, (c) => 1 / Math.max(1, d - c), to, checkpoint);
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
  map(wasm, K, d, keyMap, keyShift, () => Math.LN2, to, checkpoint);
}

/** Rows that are in memory at once. */
const TOKENS = 256;

/**
 * to (n, c + 2) = the first c columns of y = rows (n, d) matrix + shift, its last one, and `rest` times the squares of
 * the others. A logit in powers of two has log2(e) times the variance of one in numbers: queries carry log2(e)^2.
 */
function map(
  wasm: Wasm,
  rows: Float32Array,
  d: number,
  matrix: ArrayLike<number>,
  shift: ArrayLike<number>,
  rest: (c: number) => number,
  to: readonly Mapped[],
  checkpoint: () => void,
): void {
  const [n, columns] = [rows.length / d, d + 1];
  const mark = wasm.mark();
  const packed = pack(wasm, Float32Array.from(matrix), d, columns);
  const x = wasm.allocFloats(TOKENS * d);
  const y = wasm.allocFloats(TOKENS * columns);
  const offset = wasm.put(Float32Array.from(shift));
  for (let first = 0; first < n; first += TOKENS) {
    checkpoint();
    const count = Math.min(TOKENS, n - first);
    wasm.f32(x, count * d).set(rows.subarray(first * d, (first + count) * d));
    wasm.fn.gemm(count, columns, d, x, d, packed, y, columns, false);
    wasm.fn.add_row(count, columns, offset, y);
    const out = wasm.f32(y, count * columns);
    for (const { c, rows: mapped } of to) {
      const factor = rest(c);
      let at = first * (c + 2);
      for (let from = 0; from < out.length; from += columns) {
        for (let a = 0; a < c; a++) mapped[at++] = out[from + a]!;
        mapped[at++] = out[from + d]!;
        let left = 0;
        for (let a = c; a < d; a++) left += out[from + a]! * out[from + a]!;
        mapped[at++] = factor * left;
      }
    }
  }
  wasm.release(mark);
}

/** Squares of gradients are added up in float32. */
const LARGEST_SQUARE = 2 ** 100;

/** Of the root mean square, what every key has at least: dV takes keys whatever their value is. */
const LEAST_SPREAD = 0.1;

/** |v_j - mean v| of the rows of V (n, dv), and a share of its root mean square. */
export function spreadOf(V: Float32Array, dv: number, to: Float32Array): void {
  const n = V.length / dv;
  const mean = new Float64Array(dv);
  for (let j = 0, at = 0; j < n; j++) for (let c = 0; c < dv; c++, at++) mean[c]! += V[at]! / n;
  let squares = 0;
  for (let j = 0, at = 0; j < n; j++) {
    let square = 0;
    for (let c = 0; c < dv; c++, at++) square += (V[at]! - mean[c]!) ** 2;
    to[j] = Math.sqrt(square);
    squares += square / n;
  }
  const least = LEAST_SPREAD * Math.sqrt(squares);
  for (let j = 0; j < n; j++) to[j]! += least;
}

/** |G_i|^2 of rows of a head: as given, or of O - Y with O from the client; without it 1. */
export function squaresOfUpstream(
  { problem }: ExactPlan,
  { headGroup, head }: Omit<PartitionOfHead, 'partition'>,
  blocks: readonly Pick<RowBlock, 'first' | 'n'>[],
  to: Float32Array,
): void {
  const { objective, dims, known } = problem;
  const { queryLength, heads, valueDim: dv } = dims;
  const output = objective?.kind === 'target' ? known?.output?.data : null;
  if (!objective || output === undefined) return void to.fill(1);
  const { data } = objective.tensor;
  for (const { first, n } of blocks) {
    for (let i = first; i < first + n; i++) {
      const at = ((headGroup.batchItem * queryLength + i) * heads + head) * dv;
      let square = 0;
      for (let c = at; c < at + dv; c++) square += (data[c]! - (output?.[c] ?? 0)) ** 2;
      to[i] = Math.min(LARGEST_SQUARE, square);
    }
  }
}
