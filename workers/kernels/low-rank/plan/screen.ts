/** What no plan can help, seen on a few rows: logits that vary too much in too many directions. */
import type { Task } from '../../../job.js';
import { Random } from '../../random.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { balance } from '../features/balance.js';
import { selectFeatures } from '../features/features.js';
import type { Head } from '../head/head.js';
import { sampleRows, withoutOutliers } from './basis.js';

/** Rows of either side: they give the spread of the logits to some percent. */
const ROWS = 256;
/** Put aside: rows that a plan might compute exactly. */
const OUTLIERS = 1 / 32;

export interface ScreenTask extends Task<number> {
  readonly kernel: 'low_rank';
  readonly step: 'screen';
  readonly head: Head;
  readonly features: number;
  readonly seed: number;
}

/**
 * The relative error of P that so many features leave where rows are normal. By Mehler's formula (features/features.ts)
 * the square of the whole is prod_a 1 / (1 - rho_a^2), of which features have the sum of the squares of their weights.
 */
export function screen(arithmetic: Arithmetic, { head, features, seed }: ScreenTask): number {
  const mark = arithmetic.mark();
  const { q, k } = sampleRows(arithmetic, head, ROWS, new Random(seed));
  const bulk = withoutOutliers(arithmetic, q, k, head.d, OUTLIERS);
  const { sigma } = balance(arithmetic, bulk.q, bulk.k, head.d, head.beta);
  arithmetic.release(mark);
  const { weight, rho } = selectFeatures(sigma, features);
  const whole = rho.reduce((log, r) => log - Math.log1p(-r * r), 0);
  const taken = weight.reduce((sum, w) => sum + w * w, 0);
  return Math.sqrt(Math.max(0, -Math.expm1(Math.log(taken) - whole)));
}
