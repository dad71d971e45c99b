/** What a plan looked at, which shows why it chose as it did. */
import type { Head } from '../head/head.js';
import type { Draws } from './cost.js';
import { type Choice, secondsOf, triedRows } from './plan-choice.js';
import type { PlanOptions } from './plan-options.js';

/** The largest number of features of a head that was tried, with the outliers and draws of the plan. */
export interface TriedFeatures {
  readonly features: number;
  /** Upper limit to expect of the relative error; the largest over the heads. */
  readonly error: number;
  /** Seconds of all heads on one thread. */
  readonly seconds: number;
}

/** A head whose error was small enough has not been tried with more features: it stays with its last number. */
export function triedFeatures(
  heads: readonly Head[],
  choices: readonly Choice[],
  options: PlanOptions,
  draws: Draws,
): TriedFeatures[] {
  const ofHeads = heads.map((head, h) => triedRows(head, choices[h].trial, options, draws));
  const numbers = new Set(ofHeads.flatMap((rows) => rows.map(({ m }) => m)));
  const first = Math.max(...ofHeads.map(([{ m }]) => m));
  return [...numbers]
    .filter((m) => m >= first)
    .sort((a, b) => a - b)
    .map((features) => {
      const rows = ofHeads.map((tried) => tried.findLast(({ m }) => m <= features)!);
      const seconds = heads.map((head, h) =>
        secondsOf(head, choices[h].trial, rows[h].m, options, draws),
      );
      return {
        features,
        error: Math.max(...rows.map(({ error }) => error)),
        seconds: seconds.reduce((sum, one) => sum + one, 0),
      };
    });
}
