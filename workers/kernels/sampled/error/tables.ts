/**
 * Inputs of a projection, narrowed: X Omega with random signs, whose products with an error keep its Frobenius norm on
 * average, and X A^T of the adapter.
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
  /** Of X Omega. */
  readonly columns: number;
  readonly rank: number;
}

export type Tables = Partial<Record<Role, Table>>;

export interface TableTask extends Task<void> {
  readonly kernel: 'sampled';
  readonly step: 'table';
  readonly X: Tensor;
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

/** What the gradients of a role are weighed with: none where they are wanted as they are. */
function inputOf(problem: AttentionProblem, role: Role): Tensor | null {
  const name = PROJECTIONS.find((projection) => ROLES[projection] === role)!;
  if (problem.projections[name].adapter) return problem.inputs[role];
  return problem.projectedFrom?.[role] ?? null;
}

export function tableTasks(
  problem: AttentionProblem,
  seed: number,
): { readonly tables: Tables; readonly tasks: TableTask[] } {
  const tables: Tables = {};
  const tasks: TableTask[] = [];
  for (const name of PROJECTIONS) {
    const X = inputOf(problem, ROLES[name]);
    if (!X) continue;
    const A = problem.projections[name].adapter?.A ?? null;
    const rank = A ? A.shape[0]! : 0;
    const tokens = X.shape[0]! * X.shape[1]!;
    const data = sharedFloat32(tokens * (COLUMNS + rank));
    const table = { data, columns: COLUMNS, rank };
    tables[ROLES[name]] = table;
    for (let first = 0; first < tokens; first += TASK_TOKENS) {
      const last = Math.min(tokens, first + TASK_TOKENS);
      tasks.push({ kernel: 'sampled', step: 'table', X, A, table, seed, first, last });
    }
  }
  return { tables, tasks };
}

export function runTable(task: TableTask, wasm: Wasm, checkpoint: () => void): void {
  const { X, A, table, seed, first, last } = task;
  const inputs = X.shape[X.shape.length - 1]!;
  const width = table.columns + table.rank;
  const random = new Random(seed);
  const right = new Float32Array(width * inputs);
  const size = 1 / Math.sqrt(table.columns);
  for (let k = 0; k < table.columns * inputs; k++) right[k] = random.uniform() < 0.5 ? -size : size;
  if (A) right.set(A.data, table.columns * inputs);
  wasm.reset();
  const packed = packTransposed(wasm, right, width, inputs);
  const mark = wasm.mark();
  for (let token = first; token < last; token += TOKENS) {
    checkpoint();
    wasm.release(mark);
    const n = Math.min(TOKENS, last - token);
    const x = wasm.put(rowsOf(X, inputs, token, n));
    const y = wasm.allocFloats(n * width);
    wasm.fn.gemm(n, width, inputs, x, inputs, packed, y, width, false);
    table.data.set(wasm.f32(y, n * width), token * width);
  }
}
