/**
 * Rotary positions: token l of a sequence rotates the channel pairs (c, c + r/2) of its queries and keys. Tables
 * narrower than these (r < d: partial rotary positions) leave the channels from r on as they are.
 *
 *     y = x cos_l + rotate_half(x) sin_l        rotate_half(x) = cat(-x2, x1)
 *     dx = dy cos_l + rotate_half^T(dy sin_l)   rotate_half^T(y) = cat(y2, -y1)
 */
import type { Rotary } from '../problem.js';

type Floats = Float32Array | Float64Array;

/** Row l of both tables for a batch item: tables and offset. */
function rowOf({ cos, sin }: Rotary, batchItem: number, token: number) {
  const [, length, width] = cos.shape;
  const at = (table: Rotary['cos']) =>
    ((table.shape[0] === 1 ? 0 : batchItem) * length + token) * width;
  return { cos: cos.data, sin: sin.data, cosAt: at(cos), sinAt: at(sin) };
}

/** x (n, d), tokens `first`, `first` + 1, ..., in place; sums in float64. */
export function rotate(
  rotary: Rotary,
  batchItem: number,
  first: number,
  x: Floats,
  d: number,
): void {
  const half = rotary.cos.shape[2] / 2;
  for (let row = 0; row * d < x.length; row++) {
    const { cos, sin, cosAt, sinAt } = rowOf(rotary, batchItem, first + row);
    for (let c = 0, at = row * d; c < half; c++, at++) {
      const [x1, x2] = [x[at]!, x[at + half]!];
      x[at] = x1 * cos[cosAt + c]! - x2 * sin[sinAt + c]!;
      x[at + half] = x2 * cos[cosAt + half + c]! + x1 * sin[sinAt + half + c]!;
    }
  }
}

/** The transpose: from the gradient of the rotated rows to that of the rows before, in place. */
export function rotateBack(
  rotary: Rotary,
  batchItem: number,
  first: number,
  dy: Floats,
  d: number,
): void {
  const half = rotary.cos.shape[2] / 2;
  for (let row = 0; row * d < dy.length; row++) {
    const { cos, sin, cosAt, sinAt } = rowOf(rotary, batchItem, first + row);
    for (let c = 0, at = row * d; c < half; c++, at++) {
      const [y1, y2] = [dy[at]!, dy[at + half]!];
      dy[at] = y1 * cos[cosAt + c]! + y2 * sin[sinAt + half + c]!;
      dy[at + half] = y2 * cos[cosAt + half + c]! - y1 * sin[sinAt + c]!;
    }
  }
}
