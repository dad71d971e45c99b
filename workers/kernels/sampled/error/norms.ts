/** Norms of X^T dQ, X^T dK and X^T dV, of attention states whose inputs are known: by narrowed inputs, head by head. */
import type { Task } from '../../../job.js';
import type { AttentionProblem } from '../../../problem.js';
import { ITEM_SIZE } from '../../../tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../../../tensor/encoded.js';
import { widenEncoded } from '../../../tensor/narrow.js';
import type { Wasm } from '../../inner/instance.js';
import { rotaryRows } from '../../inner/operands.js';
import { packedFloats } from '../../inner/operations/products.js';
import type { Role, Table } from './tables.js';

export interface NormTask extends Task<Float64Array> {
  readonly kernel: 'sampled';
  readonly step: 'norm';
  readonly problem: AttentionProblem;
  readonly role: Role;
  readonly table: Table;
  /** (B, L, heads width) */
  readonly gradient: Float32Array;
  /** The gradient as it is sent: what rounding to its dtype adds is taken in place of it. null: the gradient itself is. */
  readonly sent: EncodedTensor | null;
  readonly batchItem: number;
  readonly head: number;
}

const TOKENS = 512;

/** Heads of a role, their width, and the tokens of a batch item. */
export function sizesOf({ dims }: AttentionProblem, role: Role) {
  const { heads, keyValueHeads, headDim, valueDim, queryLength, keyLength } = dims;
  return {
    heads: role === 'query' ? heads : keyValueHeads,
    width: role === 'value' ? valueDim : headDim,
    length: role === 'query' ? queryLength : keyLength,
  };
}

/** @returns (columns, width): the narrowed inputs, transposed, times the gradient of one head. */
export function runNorm(task: NormTask, wasm: Wasm, checkpoint: () => void): Float64Array {
  const { problem, role, table, batchItem, head } = task;
  const { heads, width, length } = sizesOf(problem, role);
  const rotary = role === 'value' ? undefined : problem.projectedFrom?.rotary;
  const pitch = table.columns + table.rank;
  const out = new Float64Array(table.columns * width);
  const all = heads * width;
  for (let first = 0; first < length; first += TOKENS) {
    checkpoint();
    wasm.reset();
    const n = Math.min(TOKENS, length - first);
    const token = batchItem * length + first;
    const at = token * all + head * width;
    const dY = wasm.put(numbers(task, at, at + (n - 1) * all + width));
    const rows = wasm.allocFloats(n * width);
    wasm.fn.copy_columns(n, width, dY, all, rows, width);
    if (rotary) {
      const { width: rotaryWidth, cos, sin } = rotaryRows(wasm, rotary, batchItem, first, n);
      wasm.fn.rotate(n, width, rotaryWidth, cos, sin, rows, true);
    }
    const packed = wasm.allocFloats(packedFloats(n, width));
    wasm.fn.pack(n, width, rows, width, packed);
    const Y = wasm.put(table.data.subarray(token * pitch, (token + n) * pitch));
    const to = wasm.allocFloats(table.columns * width);
    wasm.fn.gemm_tn(table.columns, width, n, Y, pitch, packed, to, width, false);
    const product = wasm.f32(to, out.length);
    for (let k = 0; k < out.length; k++) out[k]! += product[k]!;
  }
  return out;
}

function numbers({ gradient, sent }: NormTask, from: number, to: number): Float32Array {
  const computed = gradient.subarray(from, to);
  if (!sent) return computed;
  const { dtype, bytes } = sent;
  const size = ITEM_SIZE[dtype];
  const cut = encodedTensor(dtype, [to - from], bytes.subarray(size * from, size * to));
  return Float32Array.from(widenEncoded(cut), (x, k) => x - computed[k]!);
}

/** Squares of the columns of products (columns, width), of each batch item and head. */
export function columnSquares(products: readonly Float64Array[], columns: number): Float64Array {
  return Float64Array.from({ length: columns }, (_, c) =>
    products.reduce((sum, product) => {
      const width = product.length / columns;
      return product.subarray(c * width, (c + 1) * width).reduce((s, x) => s + x * x, sum);
    }, 0),
  );
}

export interface Norm {
  readonly norm: number;
  /** Relative variance of the squared norm; 0 where the norm is known. */
  readonly variance: number;
}

/**
 * The norm of a matrix from its products with random signs: each column by itself has the square of the norm as its mean,
 * over the number of columns. One column is the matrix itself.
 */
export function normOf(squares: Float64Array): Norm {
  const columns = squares.length;
  const total = squares.reduce((a, b) => a + b, 0);
  const mean = total / columns;
  const scatter = squares.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  const variance = (scatter * columns) / Math.max(1, columns - 1);
  return { norm: Math.sqrt(total), variance: total > 0 ? variance / total ** 2 : 0 };
}
