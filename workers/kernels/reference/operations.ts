/**
 * A float64 computation is a chain of operations on shared memory, each after the one before it. Cut into
 * pieces of a few milliseconds, it takes turns with other jobs like everything else.
 */
import { type Cancelled, type Checkpoint, checkpointOf, type Job, type Task } from '../../job.js';
import type { Range } from '../../mask.js';
import type { AttentionLayer, Rotary } from '../../problem.js';
import { allPairs, projectionFlops } from '../flops.js';
import { rotateBack } from '../rotary.js';
import { backward, forward, type Head, type HeadGradient, type Tile } from './attention.js';
import { type Compose, compose } from './compose.js';
import { add, addProduct, clear, type Matrix, part, rowsOf } from './matrix.js';

export type Operation =
  /** target = 0; its rows follow each other. */
  | { readonly kind: 'clear'; readonly target: Matrix }
  /** target += term */
  | { readonly kind: 'add'; readonly target: Matrix; readonly term: Matrix }
  /** target += factor left right */
  | {
      readonly kind: 'product';
      readonly target: Matrix;
      readonly left: Matrix;
      readonly right: Matrix;
      readonly factor: number;
    }
  | ({ readonly kind: 'compose' } & Compose)
  /** The gradient of rows from that of the rotated rows. */
  | {
      readonly kind: 'rotate_back';
      readonly target: Matrix;
      readonly rotary: Rotary;
      readonly batchItem: number;
      readonly first: number;
    }
  | { readonly kind: 'forward'; readonly head: Head; readonly tile: Tile }
  | {
      readonly kind: 'backward';
      readonly head: Head;
      readonly gradient: HeadGradient;
      readonly tile: Tile;
    };

export interface ReferenceTask extends Task<void> {
  readonly kernel: 'reference';
  readonly operations: readonly Operation[];
}

/** @throws {CancelledError} within a millisecond of `cancelled` answering true. */
export function runReferenceTask({ operations }: ReferenceTask, cancelled: Cancelled): void {
  const checkpoint = checkpointOf(cancelled);
  for (const operation of operations) {
    checkpoint();
    run(operation, checkpoint);
  }
}

function run(operation: Operation, checkpoint: Checkpoint): void {
  switch (operation.kind) {
    case 'clear':
      return clear(operation.target);
    case 'add':
      return add(operation.target, operation.term);
    case 'product': {
      const { target, left, right, factor } = operation;
      return addProduct(target, left, right, factor, checkpoint);
    }
    case 'compose':
      return compose(operation);
    case 'rotate_back': {
      const { target, rotary, batchItem, first } = operation;
      const { data, at, rows, columns } = target;
      return rotateBack(rotary, batchItem, first, data.subarray(at, at + rows * columns), columns);
    }
    case 'forward':
      return forward(operation.head, operation.tile, checkpoint);
    case 'backward':
      return backward(operation.head, operation.gradient, operation.tile, checkpoint);
  }
}

/** What a piece costs at most, unless a single entry costs more, in flops: some milliseconds. */
const PIECE_FLOPS = 2 ** 21;
/** Cost of each number in flops: moves, sines, bookkeeping. */
const ENTRY_FLOPS = 16;
/** Rows and keys of a tile, at most. */
const TILE = 64;
/** Operations of a task and tasks of a stage at most: what is sent to a worker at once. */
const TASK_OPERATIONS = 64;
const STAGE_TASKS = 32;

/** [0, count) in runs of `size`. */
function* runs(count: number, size: number): Generator<Range> {
  for (let first = 0; first < count; first += size) {
    yield { first, last: Math.min(first + size, count) };
  }
}

/** How many rows and columns of something that costs `flops` an entry make a piece. */
function pieceOf(flops: number, columns: number): { rows: number; columns: number } {
  const entries = Math.max(1, Math.floor(PIECE_FLOPS / flops));
  const wide = Math.min(columns, TILE, entries);
  return { rows: Math.max(1, Math.floor(entries / wide)), columns: wide };
}

function* cut(operation: Operation): Generator<Operation> {
  if (operation.kind === 'forward' || operation.kind === 'backward') {
    yield operation;
  } else if (operation.kind === 'product') {
    const { target, left, right } = operation;
    const all = { first: 0, last: left.columns };
    const piece = pieceOf(2 * left.columns + ENTRY_FLOPS, target.columns);
    for (const columns of runs(target.columns, piece.columns)) {
      for (const rows of runs(target.rows, piece.rows)) {
        yield {
          ...operation,
          target: part(target, rows, columns),
          left: rowsOf(left, rows),
          right: part(right, all, columns),
        };
      }
    }
  } else {
    const { target } = operation;
    const size = Math.max(1, Math.floor(PIECE_FLOPS / (ENTRY_FLOPS * target.columns)));
    for (const rows of runs(target.rows, size)) {
      const piece = { ...operation, target: rowsOf(target, rows) };
      if ('term' in piece && piece.term) Object.assign(piece, { term: rowsOf(piece.term, rows) });
      if ('first' in piece) Object.assign(piece, { first: piece.first + rows.first });
      yield piece;
    }
  }
}

function flopsOf(operation: Operation): number {
  if (operation.kind === 'forward' || operation.kind === 'backward') {
    const { rows, keys } = operation.tile;
    const { Q, V } = operation.head;
    return (rows.last - rows.first) * (keys.last - keys.first) * pairFlops(Q.columns, V.columns);
  }
  const { rows, columns } = operation.target;
  const inner = operation.kind === 'product' ? 2 * operation.left.columns : 0;
  return rows * columns * (inner + ENTRY_FLOPS);
}

/** Flops of a query and a key, in the more expensive direction. */
function pairFlops(headDim: number, valueDim: number): number {
  return 6 * headDim + 4 * valueDim + 2 * ENTRY_FLOPS;
}

/** What the operations of a layer come to, about; of attention in no direction, forward, or forward and back. */
export function chainFlops(layer: AttentionLayer, directions: 0 | 1 | 2): number {
  const { heads, headDim, valueDim } = layer.dims;
  const pairs = heads * allPairs(layer) * pairFlops(headDim, valueDim);
  return directions * pairs + (1 + directions) * projectionFlops(layer);
}

/** Rows of a block of a head: so many that a square tile is a piece. */
export function blockRows(headDim: number, valueDim: number): number {
  const entries = PIECE_FLOPS / pairFlops(headDim, valueDim);
  return Math.max(1, Math.min(TILE, Math.floor(Math.sqrt(entries))));
}

/** The tiles of a block of rows that sees keys [first, last): at least one. */
export function tilesOf({ Q, V, seen }: Head, rows: Range): Tile[] {
  // Both ends rise with the row.
  const { first, last } = { first: seen[2 * rows.first]!, last: seen[2 * rows.last - 1]! };
  const size = pieceOf((rows.last - rows.first) * pairFlops(Q.columns, V.columns), TILE).columns;
  const keys = [...runs(Math.max(0, last - first), size)].map((run) => ({
    first: first + run.first,
    last: first + run.last,
  }));
  if (keys.length === 0) keys.push({ first, last: first });
  return keys.map((run, k) => ({
    rows,
    keys: run,
    isFirst: k === 0,
    isLast: k === keys.length - 1,
  }));
}

/**
 * Runs the operations one after the other.
 *
 * @param total flops that they come to, about: what stages tell of the work that is done follows from it.
 */
export function* chain(
  name: string,
  operations: Iterable<Operation>,
  total: number,
): Job<void, ReferenceTask> {
  let tasks: ReferenceTask[] = [];
  let pieces: Operation[] = [];
  let flops = 0;
  let done = 0;
  let planned = 0;
  const take = (until = Math.min(1, planned / total)) => {
    const stage = { name, tasks, stride: 1, span: [done, until] as const };
    tasks = [];
    done = until;
    return stage;
  };
  const flush = () => {
    if (pieces.length > 0) tasks.push({ kernel: 'reference', operations: pieces });
    pieces = [];
    planned += flops;
    flops = 0;
  };
  for (const operation of operations) {
    for (const piece of cut(operation)) {
      pieces.push(piece);
      flops += flopsOf(piece);
      if (flops >= PIECE_FLOPS || pieces.length >= TASK_OPERATIONS) flush();
      if (tasks.length === STAGE_TASKS) yield take();
    }
  }
  flush();
  if (tasks.length > 0) yield take(1);
}
