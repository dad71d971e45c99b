/** The largest entries of the composed matrices Q, K and V of one head, which decide on the threshold. */
import type { Task } from '../../../job.js';
import { type ComposedNorms, ZERO_NORMS } from '../../norms.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { apply, load, transposed } from './affine.js';
import { BLOCK } from './block.js';
import type { Head, HeadProjection } from './head.js';
import type { Segment } from './layout.js';
import { type Rotation, rotation } from './rows/rotation.js';

export interface NormsTask extends Task<ComposedNorms> {
  readonly kernel: 'low_rank';
  readonly step: 'norms';
  readonly head: Head;
  readonly segment: Segment;
}

/** Over the rows of a segment; entries of queries and keys include sqrt(beta). */
export function composedNorms(
  arithmetic: Arithmetic,
  { head, segment: { from, to } }: NormsTask,
): ComposedNorms {
  const norms = { ...ZERO_NORMS };
  const root = Math.sqrt(head.beta);
  const rotary = rotation(arithmetic, head, BLOCK);
  const sides = [
    ['query', largestEntries(arithmetic, head.query, rotary), head.queryLength],
    ['key', largestEntries(arithmetic, head.key, rotary), head.keyLength],
  ] as const;
  const value = largestEntries(arithmetic, { ...head.value, rank: 0 }, null);
  for (let start = from; start < to; start += BLOCK) {
    for (const [side, entries, length] of sides) {
      const count = Math.min(BLOCK, to - start, length - start);
      if (count <= 0) continue;
      const { sum, frozen, adapter } = entries(start, count);
      norms[side] = Math.max(norms[side], root * sum);
      norms[`${side}_frozen`] = Math.max(norms[`${side}_frozen`], root * frozen);
      norms[`${side}_adapter`] = Math.max(norms[`${side}_adapter`], root * adapter);
      if (side === 'key') norms.value = Math.max(norms.value, value(start, count).sum);
    }
  }
  return norms;
}

/** Largest entries of X (W + s B A)', of s (X A') B' and of what is left, rotated, for blocks of rows of X. */
function largestEntries(
  arithmetic: Arithmetic,
  { rows, rank, adapterScaling, down, up, effective }: HeadProjection,
  rotary: Rotation | null,
) {
  const { inputs, outputs } = effective;
  const whole = load(arithmetic, inputs, outputs, effective.weight, effective.bias);
  const toLow = load(arithmetic, inputs, rank, down);
  const toAdapter = load(arithmetic, rank, outputs, transposed(up, outputs, rank));
  const x = arithmetic.array(BLOCK * inputs);
  const y = arithmetic.array(BLOCK * outputs);
  const low = arithmetic.array(BLOCK * rank);
  const adapter = arithmetic.array(BLOCK * outputs);
  return (start: number, count: number) => {
    const size = count * outputs;
    x.set(rows.subarray(start * inputs, (start + count) * inputs));
    apply(arithmetic, count, whole, x, y);
    rotary?.load((r) => start + r, count);
    rotary?.forwards(count, y);
    const sum = arithmetic.largest(size, y);
    if (rank === 0) return { sum, frozen: sum, adapter: 0 };
    apply(arithmetic, count, toLow, x, low);
    apply(arithmetic, count, toAdapter, low, adapter);
    rotary?.forwards(count, adapter);
    const added = Math.abs(adapterScaling) * arithmetic.largest(size, adapter);
    arithmetic.combine(size, 1, y, -adapterScaling, adapter);
    return { sum, frozen: arithmetic.largest(size, adapter), adapter: added };
  };
}
