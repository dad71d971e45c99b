import assert from 'node:assert/strict';
import { test } from 'node:test';
import { capped } from '../../workers/kernels/softmax.js';

test('the slope of a soft cap keeps its digits where the cap is reached', () => {
  const cap = 3;
  for (const y of [0, 1e-9, 0.3, 2, 9, 30, 300]) {
    for (const sign of [-1, 1]) {
      const row = Float64Array.of(sign * y * cap);
      const [slope] = capped(row, cap);
      // 1 - tanh^2 = 1 / cosh^2
      const expected = 1 / Math.cosh(y) ** 2;
      assert.ok(Math.abs(slope! - expected) <= 1e-13 * expected, `${y}: ${slope}, ${expected}`);
      assert.ok(Math.abs(row[0]! - sign * cap * Math.tanh(y)) <= 1e-15);
    }
  }
});
