/** What a plan looked at, for those who want to see why it chose as it did. */
import type { Head } from '../head/head.js';
import type { Draws } from './cost.js';
import { type Choice, secondsOf, triedRows } from './plan-choice.js';
import type { PlanOptions } from './plan-options.js';

/** A number of features that was tried, with the outliers and draws of the plan. */
export interface TriedFeatures {
  readonly features: number;
  /** Upper limit to expect of the relative error; the largest over the heads. */
  readonly error: number;
  /** Of all heads on one thread. */
  readonly seconds: number;
}

/** Numbers of features that were tried for all heads. */
export function triedFeatures(
  heads: readonly Head[],
  choices: readonly Choice[],
  options: PlanOptions,
  draws: Draws,
): TriedFeatures[] {
  const ofHeads = heads.map((head, h) => triedRows(head, choices[h].trial, options, draws));
  const found = (m: number) =>
    ofHeads.flatMap((rows) => rows.filter((row) => row.m === m).slice(0, 1));
  return ofHeads[0].flatMap(({ m }) => {
    const rows = found(m);
    if (rows.length < heads.length) return [];
    const seconds = heads.map((head, h) => secondsOf(head, choices[h].trial, m, options, draws));
    return {
      features: m,
      error: Math.max(...rows.map(({ error }) => error)),
      seconds: seconds.reduce((sum, one) => sum + one, 0),
    };
  });
}
