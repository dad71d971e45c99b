/** What the statistics of the estimate promise. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mixture } from '../../../workers/kernels/estimate/draw.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { Arithmetic } from '../../../workers/kernels/low-rank/arithmetic/arithmetic.js';
import {
  limitOfNorm,
  meanOf,
  squareOf,
} from '../../../workers/kernels/low-rank/error/statistics.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';
import { norm, normal } from './support.js';

const SEED = testSeed(1);
const TRIALS = 300;

/** n draws that estimate `error`, as of n of 20 n rows that have nothing to do with each other, some of them larger. */
function noisyDraws(random: Random, error: Float64Array, n: number): Float64Array {
  const noise = Math.sqrt(20 * n);
  return Float64Array.from({ length: n }, () => noise * Math.exp(0.3 * normal(random))).reduce(
    (values, scale, k) => {
      error.forEach((x, a) => {
        values[k * error.length + a] = x + scale * normal(random);
      });
      return values;
    },
    new Float64Array(n * error.length),
  );
}

test('both limits cover a norm far below the noise of the sample', (t) => {
  const random = new Random(SEED);
  const [draws, size] = [64, 200];
  const arithmetic = new Arithmetic(loadWasm(), () => {});
  const mark = arithmetic.mark();
  let [byMean, byPairs, tighter] = [0, 0, 0];
  for (let k = 0; k < TRIALS; k++) {
    const error = Float64Array.from({ length: size }, () => normal(random));
    const estimates = { count: draws, values: noisyDraws(random, error, draws) };
    const mean = meanOf(arithmetic, estimates, size);
    const distance = norm(mean.mean.map((x, i) => x - error[i]));
    if (distance <= mean.deviation + mean.unseen) byMean++;
    const limit = limitOfNorm(squareOf(arithmetic, estimates, size));
    arithmetic.release(mark);
    if (norm(error) <= limit) byPairs++;
    if (limit < mean.norm) tighter++;
  }
  t.diagnostic(`covered ${byMean} and ${byPairs}, tighter ${tighter} of ${TRIALS}`);
  assert.ok(byMean >= 0.98 * TRIALS, `${byMean} of ${TRIALS}`);
  assert.ok(byPairs >= 0.98 * TRIALS, `${byPairs} of ${TRIALS}`);
  assert.ok(tighter >= 0.8 * TRIALS, `${tighter} of ${TRIALS}`);
});

test('a limit of the mean holds for few draws with heavy tails', () => {
  const random = new Random(SEED);
  let covered = 0;
  for (let k = 0; k < TRIALS; k++) {
    // Of one number, where the spread of 16 draws may be much too small: t with 3 degrees of freedom.
    const values = Float64Array.from({ length: 16 }, () => {
      const chi = Math.hypot(normal(random), normal(random), normal(random));
      return (Math.sqrt(3) * normal(random)) / chi;
    });
    const {
      norm: found,
      deviation,
      unseen,
    } = meanOf({ checkpoint: () => {} }, { count: 16, values }, 1);
    if (found <= deviation + unseen) covered++;
  }
  assert.ok(covered >= 0.98 * TRIALS, `${covered} of ${TRIALS}`);
});

test('rows that only one family of weights knows are drawn, and rows that none knows have their chance', () => {
  const weights = [0, 1].map(() => new Float64Array(1000));
  weights[0]![3] = 1e30;
  for (let i = 500; i < 1000; i++) weights[1]![i] = 1e-30;
  const sampler = mixture(weights, new Random(SEED));
  const total = weights[0]!.reduce((sum, _, i) => sum + sampler.probability(i), 0);
  assert.ok(Math.abs(total - 1) < 1e-12);
  const counts = new Float64Array(1000);
  const draws = 40_000;
  for (let k = 0; k < draws; k++) counts[sampler.draw()]!++;
  const share = (from: number, to: number) =>
    counts.subarray(from, to).reduce((sum, n) => sum + n, 0) / draws;
  const expected = (from: number, to: number) =>
    counts.subarray(from, to).reduce((sum, _, i) => sum + sampler.probability(from + i), 0);
  for (const [from, to] of [
    [0, 3],
    [3, 4],
    [4, 500],
    [500, 1000],
  ] as const) {
    const p = expected(from, to);
    const room = 5 * Math.sqrt((p * (1 - p)) / draws);
    assert.ok(p > 0 && Math.abs(share(from, to) - p) < room, `rows ${from} to ${to}`);
  }
});
