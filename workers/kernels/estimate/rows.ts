/** Which rows the exact kernel computes again. */
import { Random } from '../random.js';
import { mixture } from './draw.js';

interface SampledRow {
  readonly index: number;
  /** Of this row in one draw of its cluster. */
  readonly probability: number;
  /** Rows of one cluster depend on each other: their mean is one draw of all clusters. */
  readonly cluster: number;
}

/** Key/value heads of which rows are drawn when keys have to be projected for each (rotary positions). */
export const ROTATED_UNITS = 4;

/**
 * `draws` rows, evenly over the weights in `families` (draw.ts). Where there are more than a few clusters of
 * `size` neighbours, these are drawn first, and then rows in them.
 */
export function sampleRows(
  families: readonly Float64Array[],
  size: number,
  draws: number,
  seed: number,
): SampledRow[] {
  const random = new Random(seed);
  const rows = (from: number, to: number, count: number) => {
    const part = mixture(
      families.map((weights) => weights.subarray(from, to)),
      random,
    );
    return part
      .spread(count)
      .map((at) => ({ index: from + at, probability: part.probability(at) }));
  };
  const [{ length }] = families as [Float64Array];
  if (length <= ROTATED_UNITS * size) {
    return rows(0, length, draws).map((row, cluster) => ({ ...row, cluster }));
  }
  const sums = families.map((weights) =>
    Float64Array.from({ length: length / size }, (_, k) =>
      weights.subarray(k * size, (k + 1) * size).reduce((a, b) => a + b, 0),
    ),
  );
  const clusters = mixture(sums, random);
  return clusters.spread(ROTATED_UNITS).flatMap((k, cluster) => {
    const share = Math.ceil(draws / ROTATED_UNITS);
    return rows(k * size, (k + 1) * size, share).map(({ index, probability }) => {
      return { index, cluster, probability: probability * clusters.probability(k) };
    });
  });
}

/** One of each of `draws` equal stretches of 0 ... n - 1, or all numbers if there are not more. */
export function spreadRows(n: number, draws: number, seed: number): number[] {
  if (n <= draws) return Array.from({ length: n }, (_, k) => k);
  const random = new Random(seed);
  return Array.from({ length: draws }, (_, k) => Math.floor(((k + random.uniform()) * n) / draws));
}
