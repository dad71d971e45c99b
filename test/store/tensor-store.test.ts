import assert from 'node:assert/strict';
import { test } from 'node:test';
import { storedBytes, TensorStore } from '../../src/store/tensor-store.js';
import { allocateTensor } from '../../workers/tensor/tensor.js';

const floats = (count: number) => allocateTensor('float32', [count]);
const SIZE = storedBytes('float32', [1000]);

test('a tensor costs its memory, which is that of float32 for 16 bits, and something beside it', () => {
  const overhead = SIZE - 4000;
  assert.ok(overhead > 0);
  assert.equal(storedBytes('bfloat16', [10, 100]), SIZE);
  assert.equal(storedBytes('float16', [1000]), SIZE);
  assert.equal(storedBytes('float64', [1000]), 8000 + overhead);
  assert.equal(storedBytes('float32', []), 4 + overhead);
});

test('the one that was not used for the longest time makes room', () => {
  const store = new TensorStore(3 * SIZE);
  for (const name of ['a', 'b', 'c']) assert.ok(store.add(name, floats(1000)));
  assert.equal(store.bytes, 3 * SIZE);
  assert.ok(store.get('a'));
  store.add('b', floats(1000));
  store.add('d', floats(1000));
  assert.deepEqual(
    ['a', 'b', 'c', 'd'].map((name) => store.get(name) !== undefined),
    [true, true, false, true],
  );
  assert.equal(store.evicted, 1);
  assert.equal(store.count, 3);
});

test('a large one pushes out as many as it takes, and the bytes never exceed the limit', () => {
  const store = new TensorStore(4 * SIZE);
  for (let k = 0; k < 100; k++) {
    store.add(`${k}`, floats(1 + ((k * 7919) % 3000)));
    assert.ok(store.bytes <= store.limit);
    assert.ok(store.get(`${k}`), 'the newest is there');
  }
  assert.equal(store.count + store.evicted, 100);
});

test('tiny tensors are bounded too', () => {
  const store = new TensorStore(1024 * 1024);
  for (let k = 0; k < 10_000; k++) store.add(`${k}`, floats(1));
  assert.ok(store.count <= 1024);
});

test('the same name again is not new, and the first copy stays', () => {
  const store = new TensorStore(3 * SIZE);
  const first = floats(1000);
  assert.equal(store.add('a', first), true);
  assert.equal(store.add('a', floats(1000)), false);
  assert.equal(store.get('a'), first);
  assert.equal(store.bytes, SIZE);
});

test('deleting gives the room back, and is no eviction', () => {
  const store = new TensorStore(SIZE);
  store.add('a', floats(1000));
  assert.equal(store.delete('a'), true);
  assert.equal(store.delete('a'), false);
  assert.deepEqual([store.bytes, store.count, store.evicted], [0, 0, 0]);
});

test('what a tensor takes is known before it is decoded', () => {
  assert.equal(storedBytes('float32', [1000]), SIZE);
  assert.ok(storedBytes('float32', [1001]) > SIZE);
  assert.ok(storedBytes('float64', [1000]) > SIZE);
});

test('beyond the quota of an owner its own tensors make room, and nobody else does', () => {
  const store = new TensorStore(4 * SIZE);
  store.add('a', floats(1000), 'other');
  for (const name of ['b', 'c', 'd']) store.add(name, floats(1000), 'mine', 2 * SIZE);
  assert.deepEqual(
    ['b', 'c', 'd'].map((name) => store.get(name, 'mine') !== undefined),
    [false, true, true],
  );
  assert.ok(store.get('a', 'other'));
});

test('a tensor that is in use keeps its numbers when it has to make room', () => {
  const store = new TensorStore(SIZE);
  const tensor = floats(1000);
  tensor.data.fill(7);
  store.add('a', tensor);
  const used = store.get('a');
  store.add('b', floats(1000));
  assert.equal(store.get('a'), undefined);
  assert.ok(used?.data.every((value) => value === 7));
});

test('room is made by who holds most: a stranger with one large tensor pushes out nothing of the others', () => {
  const store = new TensorStore(4 * SIZE);
  store.add('a', floats(1000), 'polite');
  for (const name of ['x', 'y', 'z', 'w']) store.add(name, floats(1000), 'greedy');
  assert.ok(store.get('a', 'polite'));
  assert.equal(store.get('x', 'greedy'), undefined);
  assert.equal(store.evicted, 1);
});

test('owners do not see the tensors of each other', () => {
  const store = new TensorStore(4 * SIZE);
  store.add('a', floats(1000), 'one');
  assert.equal(store.get('a', 'other'), undefined);
  assert.equal(store.delete('a', 'other'), false);
  assert.equal(store.get('a'), undefined);
  assert.ok(store.delete('a', 'one'));
});
