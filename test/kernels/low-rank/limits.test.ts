/** What the statistics of the estimate promise. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mixture } from '../../../workers/kernels/estimate/draw.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { Arithmetic } from '../../../workers/kernels/low-rank/arithmetic/arithmetic.js';
import { meanOf, spreadOf } from '../../../workers/kernels/low-rank/error/statistics.js';
import {
  NO_SCATTER,
  normOf,
  scatterOf,
} from '../../../workers/kernels/low-rank/error/tensor-estimate.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';
import { norm } from '../run.js';
import { normal } from './support.js';

const SEED = testSeed(1);
const TRIALS = 300;

/** What 16 mixtures say of an error whose scatter has so many directions, `noise` times as large as the error. */
function mixtures(random: Random, error: Float64Array, directions: number, noise: number) {
  const size = error.length;
  const values = new Float64Array(16 * size);
  const scale = (noise * norm(error)) / directions;
  for (let k = 0; k < 16; k++) {
    // As products of two different features have: of two signs.
    const signs = Array.from({ length: directions }, () => normal(random) * normal(random));
    for (let i = 0; i < size; i++) {
      values[k * size + i] = error[i] + scale * Math.sqrt(directions) * (signs[i] ?? 0);
    }
  }
  return { count: 16, values };
}

for (const directions of [1, 4, 200]) {
  for (const noise of [0.5, 3, 20]) {
    test(`a norm is below its limit: scatter of ${directions} directions, ${noise} times the error`, (t) => {
      const random = new Random(SEED);
      const size = 200;
      const arithmetic = new Arithmetic(loadWasm(), () => {});
      const mark = arithmetic.mark();
      let [covered, tighter] = [0, 0];
      for (let k = 0; k < TRIALS; k++) {
        // Along the directions of the scatter, where it is seen worst.
        const error = new Float64Array(size).map((_, i) => (i < directions ? normal(random) : 0));
        const estimates = mixtures(random, error, directions, noise);
        const mean = meanOf(arithmetic, estimates, size);
        const spread = spreadOf(arithmetic, estimates, mean.mean, null);
        arithmetic.release(mark);
        const features = scatterOf({ ...mean, unseen: 0 }, estimates.count, spread);
        const { upper } = normOf(mean.norm, { rows: NO_SCATTER, features });
        if (norm(error) <= upper) covered++;
        if (upper < mean.norm + mean.deviation) tighter++;
      }
      t.diagnostic(`covered ${covered}, tighter than by the mean ${tighter} of ${TRIALS}`);
      assert.ok(covered >= 0.97 * TRIALS, `${covered} of ${TRIALS}`);
      if (directions === 200 && noise > 1) assert.ok(tighter >= 0.9 * TRIALS, `${tighter}`);
    });
  }
}

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
