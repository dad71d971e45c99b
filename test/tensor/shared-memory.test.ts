import assert from 'node:assert/strict';
import { test } from 'node:test';
import { giveBack } from '../../workers/tasks/rest.js';
import { copyBytes, keepBytes, Lease } from '../../workers/tensor/shared-memory.js';

const LENGTH = 50_000;

test('what is given back is handed out again, to one owner', () => {
  // What other files have left.
  giveBack();
  const first = new Lease();
  const { buffer } = first.float32(LENGTH);
  const other = first.float64(LENGTH).buffer;
  first.end();
  const second = new Lease();
  assert.equal(second.bytes(4 * LENGTH).buffer, buffer);
  const larger = second.float32(2 * LENGTH - 1);
  assert.equal(larger.buffer, other);
  assert.equal(larger.length, 2 * LENGTH - 1);
  assert.notEqual(second.float64(LENGTH).buffer, other);
  second.end();
});

test('a block does not serve much less than it holds, and a lease ends once', () => {
  const first = new Lease();
  const { buffer } = first.bytes(1_000_003);
  first.end();
  first.end();
  const second = new Lease();
  assert.notEqual(second.bytes(400_000).buffer, buffer);
  assert.equal(second.bytes(1_000_003).buffer, buffer);
  assert.notEqual(second.bytes(1_000_003).buffer, buffer);
});

test('what is kept is bounded: the oldest blocks go', () => {
  const sizes = Array.from({ length: 5 }, (_, k) => 40_000_000 + k);
  const keptOf = (bytes: number) => {
    keepBytes(bytes);
    const lease = new Lease();
    const buffers = sizes.map((size) => lease.bytes(size).buffer);
    lease.end();
    const next = new Lease();
    const again = sizes.map((size) => buffers.indexOf(next.bytes(size).buffer));
    return again.filter((index) => index >= 0).sort();
  };
  assert.deepEqual(keptOf(180_000_000), [1, 2, 3, 4]);
  assert.deepEqual(keptOf(0), [2, 3, 4]);
});

test('bytes are copied at any alignment, and nothing beside them is touched', () => {
  const from = Uint8Array.from({ length: 64 }, (_, k) => k + 1);
  for (let offset = 0; offset < 9; offset++) {
    for (const length of [0, 1, 7, 8, 23]) {
      for (const at of [0, 1, 5, 8]) {
        const target = new Uint8Array(new SharedArrayBuffer(64), 3, 40);
        const source = from.subarray(offset, offset + length);
        copyBytes(target, source, at);
        const wanted = new Uint8Array(64);
        wanted.set(source, 3 + at);
        assert.deepEqual(new Uint8Array(target.buffer), wanted);
      }
    }
  }
});

test('a thread that rests keeps nothing: the memory is collected', async () => {
  const seen = new FinalizationRegistry<string>((name) => collected.push(name));
  const collected: string[] = [];
  (() => {
    const lease = new Lease();
    seen.register(lease.bytes(30_000_000).buffer, 'kept');
    lease.end();
  })();
  giveBack();
  while (collected.length === 0) {
    await new Promise((resolve) => setImmediate(resolve));
    giveBack();
  }
  assert.deepEqual(collected, ['kept']);
});
