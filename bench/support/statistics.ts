/** Medians and ratios: one slow round, a neighbour's doing, must not move the result. */

/** @throws {RangeError} on an empty list. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('The median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @param share in [0, 1]. NaN on an empty list. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** a[i] / b[i]: both of a pair were measured in the same round, so what slowed one slowed the other. */
export function pairedRatios(a: readonly number[], b: readonly number[]): Spread {
  return spread(pairs(a, b).map(([x, y]) => x / y));
}

/** a[i] - b[i]. */
export function pairedDifferences(a: readonly number[], b: readonly number[]): Spread {
  return spread(pairs(a, b).map(([x, y]) => x - y));
}

function pairs(a: readonly number[], b: readonly number[]): [number, number][] {
  if (a.length !== b.length) throw new RangeError(`${a.length} rounds against ${b.length}`);
  return a.map((x, i) => [x, b[i]]);
}
