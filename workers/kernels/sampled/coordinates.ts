/** Rows of a head in the coordinates of its basis, as the proxies take them. */
import type { Task } from '../../job.js';
import type { Lease } from '../../tensor/shared-memory.js';
import type { ExactPlan, Workspace } from '../attention/plan.js';
import type { LaneOfHead } from '../attention/task.js';
import type { Wasm } from '../inner/instance.js';
import { pack, slice } from '../inner/operands.js';
import type { HeadPlan } from './plan/plan.js';

/** Rows (.., c + 2): c coordinates, the constant of the row, and the variance that the others leave out. */
export interface Coordinates {
  /** (head, Lq, pitch) and (head, keys, pitch); of a head with c coordinates rows are c + 2 numbers. */
  readonly queries: Float32Array;
  readonly keys: Float32Array;
  /** (unit, keys): |v_j - mean v|, and a share of its root mean square. */
  readonly spread: Float32Array;
  readonly pitch: number;
}

export interface CoordinatesTask extends Task<void> {
  readonly kernel: 'sampled';
  readonly step: 'coordinates';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly coordinates: Coordinates;
  readonly head: Omit<LaneOfHead, 'lane'>;
  readonly headPlan: HeadPlan;
}

export function makeCoordinates(
  plan: ExactPlan,
  heads: readonly HeadPlan[],
  memory: Lease,
): Coordinates {
  const pitch = Math.max(0, ...heads.map(({ coordinates }) => coordinates)) + 2;
  const units = plan.waves[0]!.length;
  return {
    queries: memory.float32(units * plan.group * plan.problem.dims.queryLength * pitch),
    keys: memory.float32(units * plan.group * plan.keys * pitch),
    spread: memory.float32(units * plan.keys),
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

/** Rows that are in memory at once. */
const TOKENS = 256;

export function runCoordinates(task: CoordinatesTask, wasm: Wasm, checkpoint: () => void): void {
  const { plan, workspace, head, headPlan, coordinates } = task;
  const { coordinates: c } = headPlan;
  const { queryLength, valueDim: dv } = plan.problem.dims;
  if (head.place % plan.group === 0) {
    const unit = head.place / plan.group;
    const V = slice(workspace.V, unit, plan.keys * dv);
    spreadOf(V, dv, slice(coordinates.spread, unit, plan.keys));
  }
  if (c === 0) return;
  const queries = rowsOfHead(coordinates.queries, head.place, queryLength, coordinates.pitch, c);
  const keys = rowsOfHead(coordinates.keys, head.place, plan.keys, coordinates.pitch, c);
  mapHead(task, wasm, headPlan, queries, keys, checkpoint);
}

/** Queries (Lq, c + 2) and keys (keys, c + 2) of a head in its coordinates. */
export function mapHead(
  { plan, workspace, head }: Pick<CoordinatesTask, 'plan' | 'workspace' | 'head'>,
  wasm: Wasm,
  { basis, coordinates: c }: HeadPlan,
  queries: Float32Array,
  keys: Float32Array,
  checkpoint: () => void,
): void {
  const { queryLength, headDim: d } = plan.problem.dims;
  const Q = slice(workspace.Q, head.place, queryLength * d);
  map(wasm, Q, d, c, basis.queryMap, basis.queryShift, 1 / Math.max(1, d - c), queries, checkpoint);
  const K = slice(workspace.K, Math.floor(head.place / plan.group), plan.keys * d);
  map(wasm, K, d, c, basis.keyMap, basis.keyShift, Math.LN2, keys, checkpoint);
}

/**
 * to (n, c + 2) = the first c columns of y = rows (n, d) matrix + shift, its last one, and `rest` times the squares of
 * the others. A logit in powers of two has log2(e) times the variance of one in numbers: queries carry log2(e)^2.
 */
function map(
  wasm: Wasm,
  rows: Float32Array,
  d: number,
  c: number,
  matrix: ArrayLike<number>,
  shift: ArrayLike<number>,
  rest: number,
  to: Float32Array,
  checkpoint: () => void,
): void {
  const [n, columns] = [rows.length / d, d + 1];
  wasm.reset();
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
    for (let i = 0, from = 0, at = first * (c + 2); i < count; i++, from += columns, at += c + 2) {
      for (let a = 0; a < c; a++) to[at + a] = out[from + a]!;
      to[at + c] = out[from + d]!;
      let left = 0;
      for (let a = c; a < d; a++) left += out[from + a]! * out[from + a]!;
      to[at + c + 1] = rest * left;
    }
  }
}

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
