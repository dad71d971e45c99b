import assert from 'node:assert/strict';
import { test } from 'node:test';
import { duration, table, times } from '../../bench/support/format.js';
import { Progress } from '../../bench/support/progress.js';
import { type Side, takeTurns } from '../../bench/support/rounds.js';
import { median, pairedDifferences, pairedRatios } from '../../bench/support/statistics.js';

test('the median of odd, even and single lists, and of none', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(median([7]), 7);
  assert.throws(() => median([]), RangeError);
});

test('pairs: a round that was slow for both sides does not move the ratio', () => {
  assert.deepEqual(pairedRatios([2, 20, 3], [1, 10, 1]), { median: 2, min: 2, max: 3 });
  assert.deepEqual(pairedDifferences([2, 5, 9], [1, 1, 1]), { median: 4, min: 1, max: 8 });
  assert.throws(() => pairedRatios([1, 2], [1]), RangeError);
});

test('units and tables', () => {
  assert.equal(duration(123.4), '123 s');
  assert.equal(duration(1.5), '1.50 s');
  assert.equal(duration(0.0123456), '12.3 ms');
  assert.equal(duration(2e-5), '20 µs');
  assert.equal(times(1.625), '1.63x');
  assert.equal(times(12.34), '12.3x');
  assert.equal(table(['a', 'b'], [['x', '1']]), '| a | b |\n| --- | ---: |\n| x | 1 |');
});

const silent = new Progress({ isTTY: false, write: () => true } as unknown as NodeJS.WriteStream);

test('sides take turns, and one that fails leaves the others as they are', async () => {
  const order: string[] = [];
  const side = (name: string, seconds: number | null): Side<{ size: number }> => ({
    name,
    seconds: async () => {
      order.push(name);
      return seconds;
    },
  });
  const sides = [
    side('A', 1),
    side('B', 2),
    side('failing', null),
    { ...side('elsewhere', 1), covers: () => false },
  ];
  const rounds = { least: 3, budgetSeconds: 0 };
  const { seconds } = await takeTurns(sides, { size: 1 }, rounds, silent);
  assert.deepEqual(seconds, { A: [1, 1, 1], B: [2, 2, 2] });
  assert.equal(order.filter((name) => name === 'failing').length, 1);
  assert.deepEqual(order.slice(-6), ['A', 'B', 'A', 'B', 'A', 'B']);
});
