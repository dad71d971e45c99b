/** Numbers and names for people. */
import type { GradientAnswer } from 'loragrad-client';

/** How the kernels are called, and drawn. */
export const METHODS = {
  exact: { name: 'exact', colour: 'bad' },
  low_rank: { name: 'low-rank', colour: 'accent' },
  sampled: { name: 'sampled', colour: 'good' },
} as const satisfies Record<GradientAnswer['method'] | 'sampled', object>;

export const percent = (x: number): string => `${Number((100 * x).toPrecision(2))} %`;

export function duration(ms: number): string {
  if (ms < 1000) return `${Number(ms.toPrecision(2))} ms`;
  return `${Number((ms / 1000).toPrecision(2))} s`;
}

export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  const k = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10));
  return `${Number((count / 1024 ** k).toPrecision(3))} ${units[k]}`;
}
