import assert from 'node:assert/strict';
import { test } from 'node:test';
import { watchTimeslice } from '../../src/pool/timeslice-watch.js';

const cell = () => new Int32Array(new SharedArrayBuffer(4));
const hung = () => assert.fail('it was alive');

/** Twenty looks at a worker that is overdue. @param onLook what happens after each of them. */
async function lives(onLook: (beat: Int32Array, look: number) => void): Promise<void> {
  const beat = cell();
  let looks = 0;
  await new Promise<void>((resolve) => {
    const watch = watchTimeslice({
      beat: () => Atomics.load(beat, 0),
      overdueMs: 1,
      hungMs: 40,
      // Asked at every look.
      stopped: () => {
        onLook(beat, ++looks);
        if (looks === 20) {
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
}

test('a worker without a beat is overdue first, then hung', async () => {
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    watchTimeslice({
      beat: () => 0,
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
  await lives((beat) => beat[0]++);
  const ended = watchTimeslice({
    beat: () => 0,
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
  await lives((beat, look) => {
    if (look === 3) setTimeout(() => Atomics.wait(cell(), 0, 0, 100), 1);
    else beat[0]++;
  });
});
