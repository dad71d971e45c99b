/**
 * A linear layer with a LoRA adapter, once its two products are there, in float64.
 *
 *     frozen = X W^T + bias        adapter = s (X A^T) B^T        output = frozen + adapter
 *
 * Rotary positions rotate both parts, and so their sum.
 */
import type { Rotary } from '../../problem.js';
import { rotate } from '../rotary.js';
import type { Matrix } from './matrix.js';

export interface Compose {
  /** X W^T (L, width), becomes the output; its rows follow each other. */
  readonly target: Matrix;
  /** (L, width), its rows follow each other; null: there is no adapter. */
  readonly term: Matrix | null;
  /** (width) */
  readonly bias: Float32Array | Float64Array | null;
  readonly rotary: Rotary | null;
  readonly batchItem: number;
  /** Token of the first row. */
  readonly first: number;
  /** max |frozen|, max |adapter|, max |output| of all rows so far, before beta. */
  readonly norms: Float64Array;
}

function rowsOf({ data, at, rows, columns }: Matrix): Float32Array | Float64Array {
  return data.subarray(at, at + rows * columns);
}

export function compose(operation: Compose): void {
  const { target, term, bias, rotary, batchItem, first, norms } = operation;
  const output = rowsOf(target);
  const adapter = term && rowsOf(term);
  if (bias) for (let k = 0; k < output.length; k++) output[k]! += bias[k % target.columns]!;
  if (rotary) {
    rotate(rotary, batchItem, first, output, target.columns);
    if (adapter) rotate(rotary, batchItem, first, adapter, target.columns);
  }
  let [frozen, added, sum] = norms as unknown as [number, number, number];
  for (let k = 0; k < output.length; k++) {
    frozen = Math.max(frozen, Math.abs(output[k]!));
    if (adapter) {
      added = Math.max(added, Math.abs(adapter[k]!));
      output[k]! += adapter[k]!;
    }
    sum = Math.max(sum, Math.abs(output[k]!));
  }
  norms.set([frozen, added, sum]);
}
