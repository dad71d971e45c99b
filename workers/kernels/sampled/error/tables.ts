/**
 * What errors are measured with. Inputs of a projection, narrowed: X Omega with random signs, whose products with an
 * error keep its Frobenius norm on average, and X A^T of the adapter. Where no inputs are known, Omega itself.
 */
import type { Task } from '../../../job.js';
import { type AttentionProblem, PROJECTIONS } from '../../../problem.js';
import type { Tensor } from '../../../tensor/tensor.js';
import type { Wasm } from '../../inner/instance.js';
import { packTransposed, rowsOf } from '../../inner/operands.js';
import { Random } from '../../random.js';
import { ROLES, sharedFloat32 } from '../../result.js';

export type Role = (typeof ROLES)[keyof typeof ROLES];

/** (B, L, columns + rank) */
export interface Table {
  readonly data: Float32Array;
  /** Columns of X Omega. */
  readonly columns: number;
  readonly rank: number;
  /** Whether there are inputs: else gradients are measured as they are. */
  readonly ofInputs: boolean;
}

export type Tables = Partial<Record<Role, Table>>;

/** Returns the largest norm of a row of inputs, where there is no adapter. */
export interface TableTask extends Task<number> {
  readonly kernel: 'sampled';
  readonly step: 'table';
  /** (B, L, in) or null */
  readonly X: Tensor | null;
  /** (r, in) or null */
  readonly A: Tensor | null;
  readonly table: Table;
  readonly seed: number;
  /** Tokens of all batch items, [first, last). */
  readonly first: number;
  readonly last: number;
}

/** Columns of X Omega: the square of a norm is then off by a quarter, and blocks are many. */
const COLUMNS = 32;
/** Tokens of a task, and of one product. */
const TASK_TOKENS = 4096;
const TOKENS = 256;

export function tableTasks(
  problem: AttentionProblem,
  seed: number,
): { readonly tables: Tables; readonly tasks: TableTask[] } {
  const tables: Tables = {};
  const tasks: TableTask[] = [];
  const made = new Map<Tensor, Table>();
  const { batch, queryLength, keyLength } = problem.dims;
  for (const name of PROJECTIONS) {
    const role = ROLES[name];
    const { adapter, weight } = problem.projections[name];
    if (weight && !adapter) continue;
    const A = adapter?.A ?? null;
    const X = adapter ? problem.inputs[role] : (problem.projectedFrom?.[role] ?? null);
    const same = X && !A ? made.get(X) : undefined;
    if (same) {
      tables[role] = same;
      continue;
    }
    const rank = A ? A.shape[0]! : 0;
    const tokens = batch * (role === 'query' ? queryLength : keyLength);
    const data = sharedFloat32(tokens * (COLUMNS + rank));
    const table = { data, columns: COLUMNS, rank, ofInputs: X !== null };
    tables[role] = table;
    if (X && !A) made.set(X, table);
    for (let first = 0; first < tokens; first += TASK_TOKENS) {
      const last = Math.min(tokens, first + TASK_TOKENS);
      tasks.push({ kernel: 'sampled', step: 'table', X, A, table, seed, first, last });
    }
  }
  return { tables, tasks };
}

export function runTable(task: TableTask, wasm: Wasm, checkpoint: () => void): number {
  const { X, A, table, seed, first, last } = task;
  if (!X) {
    signs(
      new Random(seed + first),
      table.columns,
      table.data.subarray(first * table.columns, last * table.columns),
    );
    return 0;
  }
  const inputs = X.shape[X.shape.length - 1]!;
  const width = table.columns + table.rank;
  const right = new Float32Array(width * inputs);
  signs(new Random(seed), table.columns, right.subarray(0, table.columns * inputs));
  if (A) right.set(A.data, table.columns * inputs);
  wasm.reset();
  const packed = packTransposed(wasm, right, width, inputs);
  const mark = wasm.mark();
  let longest = 0;
  for (let token = first; token < last; token += TOKENS) {
    checkpoint();
    wasm.release(mark);
    const n = Math.min(TOKENS, last - token);
    const x = wasm.put(rowsOf(X, inputs, token, n));
    if (!A) longest = Math.max(longest, wasm.fn.largest_norm(n, inputs, x));
    const y = wasm.allocFloats(n * width);
    wasm.fn.gemm(n, width, inputs, x, inputs, packed, y, width, false);
    table.data.set(wasm.f32(y, n * width), token * width);
  }
  return longest;
}

/** For each role the largest norm of a row of the inputs of attention states. */
export function longestRows(
  tables: Tables,
  tasks: readonly TableTask[],
  results: readonly number[],
): Partial<Record<Role, number>> {
  const longest: Partial<Record<Role, number>> = {};
  for (const role of Object.keys(tables) as Role[]) {
    const mine = results.filter((_, k) => tasks[k]!.table === tables[role]);
    longest[role] = Math.max(0, ...mine);
  }
  return longest;
}

/** Random signs, scaled so that a row of `columns` of them has the norm 1. */
function signs(random: Random, columns: number, to: Float32Array): void {
  const size = 1 / Math.sqrt(columns);
  for (let k = 0; k < to.length; k++) to[k] = random.uniform() < 0.5 ? -size : size;
}
