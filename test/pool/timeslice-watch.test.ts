import assert from 'node:assert/strict';
import { test } from 'node:test';
import { watchTimeslice } from '../../src/pool/timeslice-watch.js';

const cell = () => new Int32Array(new SharedArrayBuffer(4));

test('a worker without a beat is overdue first, then hung', async () => {
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    watchTimeslice({
      beat: cell(),
      overdueMs: 1,
      hungMs: 20,
      stopped: () => false,
      onOverdue: () => seen.push('overdue'),
      onHung: () => {
        seen.push('hung');
        resolve();
      },
    });
  });
  assert.deepEqual(seen, ['overdue', 'hung']);
});

test('a worker that beats is overdue and never hung; a turn that ends is neither', async () => {
  const beat = cell();
  const hung = () => assert.fail('it was alive');
  let looks = 0;
  await new Promise<void>((resolve) => {
    const watch = watchTimeslice({
      beat,
      overdueMs: 1,
      hungMs: 40,
      // Asked at every look.
      stopped: () => {
        beat[0]++;
        if (++looks === 20) {
          watch.stop();
          assert.ok(watch.overdue);
          resolve();
        }
        return false;
      },
      onOverdue: () => {},
      onHung: hung,
    });
  });
  const ended = watchTimeslice({
    beat: cell(),
    overdueMs: 1,
    hungMs: 1,
    stopped: () => false,
    onOverdue: () => assert.fail('it had ended'),
    onHung: hung,
  });
  ended.stop();
  assert.equal(ended.overdue, false);
});

test('a process that was held up does not take its workers for hung', async () => {
  const beat = cell();
  let looks = 0;
  await new Promise<void>((resolve) => {
    const watch = watchTimeslice({
      beat,
      overdueMs: 1,
      hungMs: 40,
      // Asked at every look, after which the worker beats, unless all is held up.
      stopped: () => {
        if (++looks === 3) setTimeout(() => Atomics.wait(cell(), 0, 0, 100), 1);
        else beat[0]++;
        if (looks === 20) {
          watch.stop();
          resolve();
        }
        return false;
      },
      onOverdue: () => {},
      onHung: () => assert.fail('it was alive'),
    });
  });
});
