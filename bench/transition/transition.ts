/** The phase transition: what an error of 1 % takes, the larger the logits become. */

import type { WorkerPool } from '../../src/pool/worker-pool.js';
import { makeProblem } from '../../test/kernels/low-rank/support.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionProblem } from '../../workers/problem.js';
import type { Bench, Question } from '../question.js';
import { exact, lowRank, thresholdRatio, trueError } from '../support/low-rank.js';
import type { Measurement } from '../support/rounds.js';
import { startPool } from '../support/subject.js';
import { EXACT, LOW_RANK, TOLERANCE, tell } from './report.js';

export interface TransitionSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly tail: 'normal' | 't4';
  readonly outliers: 'exact' | 'none';
  /** Of the logits. */
  readonly deviation: number;
}

const STEPS = [8, 16, 32, 64, 128, 256, 512, 1024];
const DIM = 64;
/** What the plan puts rows aside for: a trial on a few rows may be too hopeful. */
const PLANNED = TOLERANCE / 4;

/** The first step from `from` on whose true error is at most the tolerance; null: none. */
async function needed(
  pool: WorkerPool,
  problem: AttentionProblem,
  truth: GradientResult,
  withoutOutliers: boolean,
  from: number,
) {
  for (let step = from; step < STEPS.length; step++) {
    const options = { features: STEPS[step], tolerance: PLANNED, withoutOutliers };
    const { plan, result, seconds } = await lowRank(pool, problem, options);
    if (result.lostRows > 0) continue;
    const error = trueError(result, truth);
    const outliers = plan.outlierQueries + plan.outlierKeys;
    if (error > TOLERANCE) continue;
    const again = await lowRank(pool, problem, options);
    return { step, seconds: Math.min(seconds, again.seconds), error, outliers };
  }
  return null;
}

async function run(bench: Bench): Promise<Measurement<TransitionSetting>[]> {
  const length = bench.quick ? 1024 : 16_384;
  const deviations = bench.quick ? [0.1, 1] : [0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2.5];
  const tails = ['normal', 't4'] as const;
  bench.progress.begin('transition', deviations.length * tails.length);
  const pool = await startPool(bench.cpus);
  const measurements: Measurement<TransitionSetting>[] = [];
  try {
    for (const tail of tails) {
      // More features are needed from one deviation to the next, never fewer.
      const from = { exact: 0, none: 0 };
      for (const deviation of deviations) {
        bench.progress.step({ tail, deviation, length }, 'exact, then rising m');
        const problem = makeProblem({
          ...{ seed: 1, queryLength: length, d: DIM, rank: 8, adapted: 'qv', related: true },
          ...{ tail, deviation, spectrum: 'exponential' },
        });
        const start = performance.now();
        const truth = await exact(pool, problem);
        const exactSeconds = (performance.now() - start) / 1000;
        for (const outliers of ['exact', 'none'] as const) {
          const found = await needed(pool, problem, truth, outliers === 'none', from[outliers]);
          from[outliers] = found?.step ?? STEPS.length;
          measurements.push({
            setting: { length, tail, outliers, deviation },
            seconds: { [EXACT]: [exactSeconds], ...(found && { [LOW_RANK]: [found.seconds] }) },
            details: {
              ratio: thresholdRatio(truth, problem),
              ...(found && {
                features: STEPS[found.step],
                error: found.error,
                outliers: found.outliers,
              }),
            },
          });
        }
      }
    }
  } finally {
    await pool.close();
  }
  return measurements;
}

export const transition: Question<TransitionSetting> = {
  name: 'transition',
  title: 'The phase transition',
  run,
  tell,
};
