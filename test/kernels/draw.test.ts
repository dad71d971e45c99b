/** Rows drawn in proportion to weights, whose sums are known for many rows together only. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { proportional } from '../../workers/kernels/estimate/draw.js';
import { Random } from '../../workers/kernels/random.js';

test('a row is drawn as often as its weight says, and never one of weight 0', () => {
  const n = 1700;
  const weights = Float64Array.from({ length: n }, (_, i) => (i % 3 === 0 ? 0 : i % 7));
  // A stretch without weight, longer than what is added up together, and one row of half of all.
  weights.fill(0, 500, 1100);
  weights[1400] = 0;
  weights[1400] = weights.reduce((sum, w) => sum + w, 0);
  const { draw, probability } = proportional(weights, new Random(3));
  const DRAWS = 20_000;
  const counts = new Float64Array(n);
  for (let k = 0; k < DRAWS; k++) counts[draw()]! += 1;
  const total = weights.reduce((sum, w) => sum + w, 0);
  let [first, square] = [0, 0];
  for (let i = 0; i < n; i++) {
    assert.equal(probability(i), weights[i]! / total);
    if (weights[i] === 0) assert.equal(counts[i], 0, `row ${i}`);
    if (i < 500) first += counts[i]!;
    square += probability(i);
  }
  assert.ok(Math.abs(square - 1) < 1e-9);
  const share = weights.subarray(0, 500).reduce((sum, w) => sum + w, 0) / total;
  const deviation = Math.sqrt(DRAWS * share * (1 - share));
  assert.ok(Math.abs(first - DRAWS * share) < 6 * deviation, `${first} of ${DRAWS * share}`);
  assert.ok(Math.abs(counts[1400]! - DRAWS / 2) < 6 * Math.sqrt(DRAWS / 4));
});
