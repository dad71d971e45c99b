/** What exact rows and exact columns of P have in common: running maxima, masks, thin factors. */
import { ROWS } from '../../inner/block.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import type { KeyRows } from '../head/rows/key-rows.js';
import type { QueryRows } from '../head/rows/query-rows.js';

/** Rows, or columns of a thin factor, rounded up to what Attention takes. */
export function wholeVectors(n: number): number {
  return 8 * Math.ceil(n / 8);
}

/**
 * Under a causal mask, how many of the first queries from `first` on do not see each key: both lists
 * rise. Queries are at most ROWS; null: all see all.
 */
export function hiddenQueries(
  causal: boolean,
  queries: QueryRows,
  first: number,
  keys: KeyRows,
  skip: (column: number) => boolean = () => false,
): Int32Array | null {
  if (!causal) return null;
  const rows = Math.min(ROWS, queries.count - first);
  const hidden = new Int32Array(keys.count);
  let n = 0;
  let any = false;
  for (let j = 0; j < keys.count; j++) {
    while (n < rows && queries.index[first + n] < keys.index[j]) n++;
    hidden[j] = skip(j) ? ROWS : n;
    any ||= hidden[j] > 0;
  }
  return any ? hidden : null;
}

/** A thin factor (rows, width) in rows of whole vectors, filled up with zeros. */
export interface ThinFactor {
  readonly width: number;
  readonly wide: number;
  /** The first `rows` of x, at once or in a copy. */
  load(rows: number, x: Real): Real;
}

export function thinFactor(arithmetic: Arithmetic, capacity: number, width: number): ThinFactor {
  const wide = wholeVectors(width);
  if (wide === width) return { width, wide, load: (_, x) => x };
  const copy = arithmetic.array(capacity * wide);
  return {
    width,
    wide,
    load(rows, x) {
      arithmetic.copyColumns(rows, width, x, width, 0, copy, wide, 0);
      return copy;
    },
  };
}
