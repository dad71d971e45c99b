/** What a trial would say if rows were normal, from the covariances of a few of them: a tenth of its cost. */
import type { Task } from '../../../job.js';
import { shared } from '../../../tensor/shared-memory.js';
import { Random } from '../../random.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { canDrawFeatures, effectiveFeatures } from '../error/drawn-features/draw.js';
import { deviations, mean } from '../features/balance.js';
import { selectFeatures } from '../features/features.js';
import type { Head } from '../head/head.js';
import { directionsOf, sampleRows, withoutOutliers } from './basis.js';
import { NEXT_FEATURES } from './draft.js';
import type { Judged, TrialRow } from './trial/trial.js';

/** Rows of either side: they give the spread of the logits to some percent. */
const ROWS = 256;
/** Put aside: rows that a plan might compute exactly. */
const OUTLIERS = 1 / 32;

export interface ScreenTask extends Task<Judged> {
  readonly kernel: 'low_rank';
  readonly step: 'screen';
  readonly head: Head;
  /** Numbers of features, rising. */
  readonly steps: readonly number[];
  readonly seed: number;
}

const NONE = new Float64Array(0);

/**
 * Features leave so much of normal rows of P: by Mehler's formula (features/features.ts) the square of the whole is
 * prod_a 1 / (1 - rho_a^2), of which features have the sum of the squares of their weights.
 */
export function screen(arithmetic: Arithmetic, { head, steps, seed }: ScreenTask): Judged {
  const { d, beta, queryLength, keyLength } = head;
  const mark = arithmetic.mark();
  const { q, k } = sampleRows(arithmetic, head, ROWS, new Random(seed));
  const bulk = withoutOutliers(arithmetic, q, k, d, OUTLIERS);
  const sigma = deviations(arithmetic, bulk.q, bulk.k, d, beta);
  const directions = directionsOf(arithmetic, head, bulk, mean(bulk.k, d));
  arithmetic.release(mark);
  const features = selectFeatures(sigma, steps[steps.length - 1] + NEXT_FEATURES);
  const { weight, rho } = features;
  const drawable = canDrawFeatures(head) ? weight : NONE;
  const whole = rho.reduce((log, r) => log - Math.log1p(-r * r), 0);
  const rows = steps.map((step): TrialRow => {
    const m = Math.min(step, features.size);
    const taken = weight.subarray(0, m).reduce((sum, w) => sum + w * w, 0);
    const error = Math.sqrt(Math.max(0, -Math.expm1(Math.log(taken) - whole)));
    const all = { error, rows: queryLength, columns: keyLength, normalisation: 0, rounding: 0 };
    return {
      ...{ features: m, score: all, value: all },
      drawnFeatures: effectiveFeatures(features, drawable, m),
    };
  });
  return shared({ share: 0, basis: { features, directions }, rows });
}
