/** How does the error fall with the number of features, and what do the error bars say of it? */
import { makeProblem } from '../../test/kernels/low-rank/support.js';
import type { Bench, Question } from '../question.js';
import {
  lowRank,
  reference,
  statedErrors,
  thresholdRatio,
  trueError,
} from '../support/low-rank.js';
import type { Measurement } from '../support/rounds.js';
import { startPool } from '../support/subject.js';
import { tell } from './report.js';

const SPECTRA = ['exponential', 'harmonic', 'flat'] as const;

export interface AccuracySetting {
  readonly [name: string]: number | string;
  readonly spectrum: (typeof SPECTRA)[number];
  /** Of the logits. */
  readonly deviation: number;
  readonly features: number;
}

const DIM = 64;

async function run(bench: Bench): Promise<Measurement<AccuracySetting>[]> {
  const length = bench.quick ? 300 : 2048;
  const deviations = bench.quick ? [0.1, 0.5] : [0.05, 0.2, 0.5, 1];
  const counts = bench.quick ? [16, 64] : [16, 32, 64, 128, 256, 512, 1024];
  bench.progress.begin('accuracy', SPECTRA.length * deviations.length);
  const pool = await startPool(bench.cpus);
  const measurements: Measurement<AccuracySetting>[] = [];
  try {
    for (const spectrum of SPECTRA) {
      for (const deviation of deviations) {
        bench.progress.step({ spectrum, deviation, length }, 'reference, then every m');
        const problem = makeProblem({
          ...{ seed: 1, queryLength: length, d: DIM, rank: 8, related: true },
          ...{ spectrum, deviation },
        });
        const truth = await reference(pool, problem);
        for (const features of counts) {
          const { result, seconds } = await lowRank(pool, problem, {
            ...{ features, tolerance: 0.01, certificate: true },
          });
          measurements.push({
            setting: { spectrum, deviation, length, features },
            seconds: { 'low-rank': [seconds] },
            details: {
              ratio: thresholdRatio(truth, problem),
              ...(result.lostRows === 0 && {
                error: trueError(result, truth),
                ...statedErrors(result.errors),
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

export const accuracy: Question<AccuracySetting> = {
  name: 'accuracy',
  title: 'Error against the number of features',
  run,
  tell,
};
