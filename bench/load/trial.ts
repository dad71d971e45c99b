/** What a trial comes to: figures for the reader, and what they are held to. */
import type { Target } from '../question.js';
import { median } from '../support/statistics.js';

export interface TrialResult {
  /** Markdown. */
  readonly text: string;
  readonly targets: readonly (Target & { readonly measured: string })[];
}

/** Nothing of that kind is to have happened. */
export function none(
  what: string,
  found: number,
  details: readonly string[] = [],
): TrialResult['targets'][number] {
  const shown = details.slice(0, 5).join('; ');
  const measured = shown ? `${found} (${shown})` : String(found);
  return { wanted: `no ${what}`, measured, met: found === 0 };
}

/**
 * A figure does not grow with time.
 *
 * @param values over the trial; the first is of a service that warms up.
 * @param most of what the first half has, what the second may have.
 */
export function flat(
  what: string,
  values: readonly number[],
  most = 1.2,
): TrialResult['targets'][number] {
  const half = Math.ceil(values.length / 2);
  const growth = median(values.slice(half)) / median(values.slice(1, half));
  return {
    wanted: `${what}: in the second half at most ${most} times that of the first`,
    measured: `${growth.toFixed(2)} times`,
    met: growth <= most,
  };
}

/** How many requests ended otherwise. */
export function otherThan(
  right: readonly string[],
  statuses: Readonly<Record<string, number>>,
): number {
  const wrong = Object.entries(statuses).filter(([status]) => !right.includes(status));
  return wrong.reduce((sum, [, n]) => sum + n, 0);
}

export const told = (statuses: Readonly<Record<string, number>>) =>
  Object.entries(statuses)
    .map(([status, n]) => `${status}: ${n}`)
    .join(', ');
