/**
 * A linear layer with a LoRA adapter, one head (a band of output features) at a time, in float64.
 *
 *     frozen = X W^T + bias        adapter = s (X A^T) B^T        output = frozen + adapter
 *
 * Rotary positions turn both parts, and so their sum.
 */
import { Matrix } from 'ml-matrix';
import type { Projection } from '../../problem.js';
import type { Tensor } from '../../tensor/tensor.js';

/** Rows [first, first + count) of a tensor seen as a matrix of `columns` columns. */
export function matrixOf(tensor: Tensor, columns: number, first: number, count: number): Matrix {
  const part = tensor.data.subarray(first * columns, (first + count) * columns);
  return Matrix.from1DArray(count, columns, part);
}

export interface ProjectedHead {
  /** X (L, in) */
  readonly X: Matrix;
  /** frozen + adapter, rotated, (L, width) */
  readonly output: Matrix;
  /** max |frozen|, max |adapter|, max |output|, before beta. */
  readonly norms: { readonly frozen: number; readonly adapter: number; readonly sum: number };
}

const maxAbs = (M: Matrix): number => Math.max(M.max(), -M.min());

/** Turns the rows of a matrix (L, width). */
export type Turn = (M: Matrix) => Matrix;

/** Head `head` of width `width` for the rows X (L, in). */
export function projectHead(
  X: Matrix,
  projection: Projection,
  head: number,
  width: number,
  turn: Turn = (M) => M,
): ProjectedHead {
  const first = head * width;
  const straight = projection.weight
    ? X.mmul(matrixOf(projection.weight, projection.inFeatures, first, width).transpose())
    : X.subMatrix(0, X.rows - 1, first, first + width - 1);
  if (projection.bias) {
    straight.addRowVector(Array.from(projection.bias.data.subarray(first, first + width)));
  }
  const output = turn(straight);
  const frozen = maxAbs(output);
  let adapterNorm = 0;
  if (projection.adapter) {
    const { A, B, rank, scaling } = projection.adapter;
    const low = X.mmul(matrixOf(A, projection.inFeatures, 0, rank).transpose());
    const adapter = turn(low.mmul(matrixOf(B, rank, first, width).transpose()).mul(scaling));
    adapterNorm = maxAbs(adapter);
    output.add(adapter);
  }
  return { X, output, norms: { frozen, adapter: adapterNorm, sum: maxAbs(output) } };
}

/**
 * Add the gradient of one head's adapter to the totals.
 *
 *     d lora_A += s (dOut B_h)^T X        d lora_B[head's rows] += s dOut^T (X A^T)
 *
 * @param dOut (L, width), gradient of the head's output before it was rotated.
 * @param totals lora_A (r, in) and lora_B (out, r), row-major.
 */
export function addAdapterGradient(
  dOut: Matrix,
  X: Matrix,
  projection: Projection,
  head: number,
  totals: { readonly lora_A: Float64Array; readonly lora_B: Float64Array },
): void {
  if (!projection.adapter) return;
  const { A, B, rank, scaling } = projection.adapter;
  const width = dOut.columns;
  const first = head * width;
  const dA = dOut
    .mmul(matrixOf(B, rank, first, width))
    .transpose()
    .mmul(X)
    .mul(scaling);
  const low = X.mmul(matrixOf(A, projection.inFeatures, 0, rank).transpose());
  const dB = dOut.transpose().mmul(low).mul(scaling);
  dA.to1DArray().forEach((value, k) => {
    totals.lora_A[k] += value;
  });
  dB.to1DArray().forEach((value, k) => {
    totals.lora_B[first * rank + k] += value;
  });
}

/**
 * Add the gradient of the inputs that comes through one head.
 *
 *     dX += dOut (W_h + s B_h A)
 *
 * @param dOut (L, width), gradient of the head's output before it was rotated.
 * @param total rows of dX, (L, in), row-major.
 */
export function addInputGradient(
  dOut: Matrix,
  projection: Projection,
  head: number,
  total: Float64Array,
): void {
  const width = dOut.columns;
  const first = head * width;
  if (!projection.weight) {
    const { inFeatures } = projection;
    for (let i = 0; i < dOut.rows; i++) {
      for (let c = 0; c < width; c++) total[i * inFeatures + first + c] += dOut.get(i, c);
    }
    return;
  }
  const dX = dOut.mmul(matrixOf(projection.weight, projection.inFeatures, first, width));
  if (projection.adapter) {
    const { A, B, rank, scaling } = projection.adapter;
    const up = dOut.mmul(matrixOf(B, rank, first, width)).mul(scaling);
    dX.add(up.mmul(matrixOf(A, projection.inFeatures, 0, rank)));
  }
  dX.to1DArray().forEach((value, k) => {
    total[k] += value;
  });
}
