import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LineWriter } from '../../src/http/observability/line-writer.js';

/** Takes what the system lets through: so many bytes at a time, or an error. */
function system() {
  let text = '';
  const state: { bytes: number; error: string | null } = { bytes: 1e9, error: null };
  const put = (bytes: Uint8Array) => {
    if (state.error) throw Object.assign(new Error(state.error), { code: state.error });
    const taken = bytes.subarray(0, state.bytes);
    text += Buffer.from(taken);
    return taken.length;
  };
  const lines = () => text.split('\n').filter((line) => line !== '');
  return { state, put, lines };
}

const line = (k: number) => `{"k":${k},"text":"${'x'.repeat(1000)}"}\n`;
const numbers = (lines: readonly string[]) => lines.map((text) => JSON.parse(text).k as number);

test('the log: lines arrive whole and in their order however few bytes the system takes at a time', () => {
  const { state, put, lines } = system();
  state.bytes = 7;
  const writer = new LineWriter(put);
  for (let k = 0; k < 20; k++) writer.write(line(k));
  writer.flush();
  assert.deepEqual(
    numbers(lines()),
    Array.from({ length: 20 }, (_, k) => k),
  );
});

test('the log: a reader who stalls is not waited for; what was dropped is told when it reads again', () => {
  const { state, put, lines } = system();
  const writer = new LineWriter(put);
  state.error = 'EAGAIN';
  const count = 5000;
  for (let k = 0; k < count; k++) writer.write(line(k));
  state.error = null;
  writer.flush();
  const all = lines();
  const told = all.filter((text) => text.includes('"dropped"'));
  const [{ dropped }] = told.map((text) => JSON.parse(text));
  assert.ok(dropped > 0);
  assert.equal(all.length - told.length + dropped, count);
  const kept = numbers(all.filter((text) => !told.includes(text)));
  assert.deepEqual(
    kept,
    kept.map((_, k) => k),
  );
});

test('the log: a disk that was full for a while has the lines of after', () => {
  const { state, put, lines } = system();
  const writer = new LineWriter(put);
  state.error = 'ENOSPC';
  for (const k of [0, 1, 2]) {
    writer.write(line(k));
    writer.flush();
  }
  state.error = null;
  writer.write(line(3));
  writer.end();
  const [told, last] = lines();
  assert.equal(JSON.parse(told!).dropped, 3);
  assert.deepEqual(numbers([last!]), [3]);
});
