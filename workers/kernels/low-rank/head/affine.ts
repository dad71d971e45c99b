/** Small affine maps applied to blocks of rows. */
import type { TensorData } from '../../../tensor/tensor.js';
import type { Arithmetic, Packed, Real } from '../arithmetic/arithmetic.js';
import type { Affine } from './head.js';

/** A matrix in the arithmetic's own memory, with a row that is added to the product. */
export interface Loaded {
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: Packed;
  readonly bias: Real | null;
}

/** weight (inputs, outputs). */
export function load(
  arithmetic: Arithmetic,
  inputs: number,
  outputs: number,
  weight: TensorData,
  bias: Float64Array | null = null,
): Loaded {
  const row = bias && arithmetic.array(outputs);
  row?.set(bias!);
  return { inputs, outputs, weight: arithmetic.pack(inputs, outputs, weight), bias: row };
}

/** y (n, outputs) = x (n, inputs) weight + bias. */
export function apply(arithmetic: Arithmetic, n: number, map: Loaded, x: Real, y: Real): void {
  const { outputs, weight, bias } = map;
  if (outputs === 0) return;
  arithmetic.product(n, x, weight, y);
  if (bias) arithmetic.addRow(n, outputs, bias, y);
}

/** x -> (x weight + bias - centre) matrix in one product, for a square matrix. */
export function loadComposed(
  arithmetic: Arithmetic,
  map: Pick<Affine, 'inputs' | 'outputs' | 'weight'> & { readonly bias: Float64Array | null },
  centre: Float64Array,
  matrix: Float64Array,
): Loaded {
  const { inputs, outputs } = map;
  const [left, right] = [arithmetic.array(inputs * outputs), arithmetic.array(outputs * outputs)];
  left.set(map.weight);
  right.set(matrix);
  const product = arithmetic.array(inputs * outputs);
  arithmetic.gemm(inputs, outputs, outputs, left, right, product);
  const bias = times(
    centre.map((c, a) => (map.bias?.[a] ?? 0) - c),
    matrix,
    outputs,
  );
  return load(arithmetic, inputs, outputs, product, bias);
}

/** row times matrix (.., outputs). */
export function times(row: Float64Array, matrix: TensorData, outputs: number): Float64Array {
  const out = new Float64Array(outputs);
  for (let a = 0; a < row.length; a++) {
    for (let c = 0; c < outputs; c++) out[c] += row[a] * matrix[a * outputs + c];
  }
  return out;
}

/** -row in the arithmetic's own memory: what centres rows when it is added to them. */
export function minus(arithmetic: Arithmetic, row: ArrayLike<number>): Real {
  const copy = arithmetic.array(row.length);
  for (let a = 0; a < row.length; a++) copy[a] = -row[a];
  return copy;
}

/** -(row times matrix): the bias that centres the product of centred rows. */
export function minusProduct(row: Float64Array, matrix: TensorData, outputs: number): Float64Array {
  return times(row, matrix, outputs).map((x) => -x);
}

/** (columns, rows) = transpose of x (rows, columns). */
export function transposed(x: Float32Array, rows: number, columns: number): Float32Array {
  return x.map((_, i) => x[(i % rows) * columns + Math.floor(i / rows)]);
}

/** Copies rows of x (n, width) into a block; rows past `count` are left as they are. */
export function gather(
  x: TensorData,
  width: number,
  rows: (r: number) => number,
  count: number,
  to: Real,
  offset = 0,
  stride = width,
): void {
  // Neighbouring rows are one copy.
  let together = stride === width && count > 0;
  for (let r = 1; r < count && together; r++) together = rows(r) === rows(0) + r;
  if (together) {
    to.set(x.subarray(rows(0) * width, (rows(0) + count) * width));
    return;
  }
  for (let r = 0; r < count; r++) {
    const from = rows(r) * stride + offset;
    to.set(x.subarray(from, from + width), r * width);
  }
}
