/** One row of the softmax in float64, with all that may change its logits. */
import type { Range } from '../mask.js';
import type { Attention } from '../problem.js';

export interface RowWeights {
  readonly P: Float64Array;
  /** d cap(S) / dS, or null without a soft cap. */
  readonly slope: Float64Array | null;
  /** Share of the sink. */
  readonly sink: number;
}

/** Weights of the keys that a row sees, from its logits before the cap; 0 for the others. */
export function rowSoftmax(
  { softcap }: Pick<Attention, 'softcap'>,
  logits: Float64Array,
  { first, last }: Range,
  sink = Number.NEGATIVE_INFINITY,
): RowWeights {
  const tanh = softcap ? logits.map((s) => Math.tanh(s / softcap)) : null;
  const capped = softcap ? tanh!.map((t) => softcap * t) : logits;
  let max = sink;
  for (let j = first; j < last; j++) max = Math.max(max, capped[j]!);
  const P = new Float64Array(logits.length);
  const e = Math.exp(sink - max);
  let sum = sink > Number.NEGATIVE_INFINITY ? e : 0;
  for (let j = first; j < last; j++) sum += P[j] = Math.exp(capped[j]! - max);
  for (let j = first; j < last; j++) P[j]! /= sum;
  return { P, slope: tanh?.map((t) => 1 - t * t) ?? null, sink: sum > 0 ? e / sum : 0 };
}
