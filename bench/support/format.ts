/** Numbers and tables for readers. */
import { type Spread, spread } from './statistics.js';

/** Three significant digits in the unit that fits: 12.3 ms, 4.56 s. */
export function duration(seconds: number): string {
  const size = Math.abs(seconds);
  if (size >= 100) return `${seconds.toFixed(0)} s`;
  if (size >= 1) return `${seconds.toPrecision(3)} s`;
  if (size >= 1e-3) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds * 1e6)} µs`;
}

/** Three significant digits without an exponent. */
export function digits(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

export function times(ratio: number): string {
  return `${ratio.toFixed(ratio >= 100 ? 0 : ratio >= 10 ? 1 : 2)}x`;
}

/** 1.62x (1.58x to 1.65x) */
export function timesSpread({ median, min, max }: Spread): string {
  return `${times(median)} (${times(min)} to ${times(max)})`;
}

export function durationSpread(seconds: readonly number[]): string {
  const { median, min, max } = spread(seconds);
  return `${duration(median)} (${duration(min)} to ${duration(max)})`;
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** The first columns are texts, the others numbers, which are set to the right. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  texts = 1,
): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rule = head.map((_, column) => (column < texts ? '---' : '---:'));
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}
