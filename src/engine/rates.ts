/** How fast this machine runs the low-rank kernel: measured for the first request that may need it. */
import { type Job, stage } from '../../workers/job.js';
import type { AttentionLayer } from '../../workers/problem.js';
import type { CalibrateLowRankTask } from '../../workers/tasks/calibration/calibrate-low-rank.js';
import { kernelsOf } from '../solver/choose.js';
import type { ChooseOptions } from '../solver/choose-low-rank.js';

let measured: number | null = null;

/** @param dryRun for a plan alone. @returns options whose rates are those of this machine. */
export function* withRates<Options extends ChooseOptions>(
  layer: AttentionLayer,
  options: Options,
  dryRun = false,
): Job<Options> {
  const { rates } = options;
  if (!rates.lowRankGuessed || !kernelsOf(layer, options, dryRun).lowRank) return options;
  if (measured === null) {
    const task: CalibrateLowRankTask = { kernel: 'calibrate_low_rank' };
    [measured] = (yield* stage('calibrate', [task])) as [number];
  }
  return { ...options, rates: { ...rates, lowRank: measured, lowRankGuessed: false } };
}
