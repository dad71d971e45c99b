/** One row of the softmax in float64, with all that may change its logits. */
import type { Range } from '../mask.js';
import type { Attention } from '../problem.js';

export interface RowSoftmax {
  /** d cap(S) / dS, or null without a soft cap. */
  readonly slope: Float64Array | null;
  /** Share of the sink. */
  readonly sink: number;
}

/** Logits before the cap become, in place, weights of the keys that a row sees, and 0 for the others. */
export function rowSoftmax(
  { softcap }: Pick<Attention, 'softcap'>,
  row: Float64Array,
  { first, last }: Range,
  sink = Number.NEGATIVE_INFINITY,
): RowSoftmax {
  const slope = softcap ? capped(row, softcap) : null;
  let max = sink;
  for (let j = first; j < last; j++) max = Math.max(max, row[j]!);
  const e = Math.exp(sink - max);
  let sum = sink > Number.NEGATIVE_INFINITY ? e : 0;
  for (let j = first; j < last; j++) sum += row[j] = Math.exp(row[j]! - max);
  for (let j = first; j < last; j++) row[j]! /= sum;
  row.fill(0, 0, first).fill(0, last);
  return { slope, sink: sum > 0 ? e / sum : 0 };
}

/** S becomes c tanh(S / c). @returns its slope, 1 - tanh(S / c)^2 = 4 u / (1 + u)^2 with u = e^-2|S / c|: nothing cancels. */
export function capped(row: Float64Array, c: number): Float64Array {
  const slope = new Float64Array(row.length);
  for (let j = 0; j < row.length; j++) {
    const y = row[j]! / c;
    const u = Math.exp(-2 * Math.abs(y));
    row[j] = c * Math.tanh(y);
    slope[j] = (4 * u) / (1 + u) ** 2;
  }
  return slope;
}
