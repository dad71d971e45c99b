/** Rotary positions of a block of rows of one head. */
import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import type { Head } from '../head.js';

export interface Rotation {
  /** Takes the tables of these rows. */
  load(rows: (r: number) => number, count: number): void;
  /** Rotates x (count, d) in place: rows of Q or K as projected. */
  forwards(count: number, x: Real): void;
  /** The transpose: from gradients of the rotated rows to those of the rows before. */
  back(count: number, x: Real): void;
}

/** For blocks of up to `capacity` rows; null: no rotary positions. */
export function rotation(
  arithmetic: Arithmetic,
  { rotary, batch, d }: Pick<Head, 'rotary' | 'batch' | 'd'>,
  capacity: number,
): Rotation | null {
  if (!rotary) return null;
  const width = rotary.cos.shape[2];
  const cos = arithmetic.array(capacity * width);
  const sin = arithmetic.array(capacity * width);
  const tables = [
    { ...rotary.cos, to: cos },
    { ...rotary.sin, to: sin },
  ];
  return {
    load(rows, count) {
      for (const { data, shape, to } of tables) {
        // One table for all items of the batch, or one for each.
        const first = (shape[0] === 1 ? 0 : batch) * shape[1];
        for (let r = 0; r < count; r++) {
          const from = (first + rows(r)) * width;
          to.set(data.subarray(from, from + width), r * width);
        }
      }
    },
    forwards: (count, x) => arithmetic.rotate(count, d, width, cos, sin, x, false),
    back: (count, x) => arithmetic.rotate(count, d, width, cos, sin, x, true),
  };
}
