import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FairQueue } from '../../src/pool/fair-queue.js';

function drain(queue: FairQueue<string, number>): string {
  const order: string[] = [];
  for (let next = queue.take(); next; next = queue.take()) order.push(next.owner + next.item);
  return order.join(' ');
}

test('owners take turns, item by item', () => {
  const queue = new FairQueue<string, number>();
  queue.add('large', [1, 2, 3, 4]);
  queue.add('small', [1, 2]);
  assert.equal(queue.length, 6);
  assert.equal(drain(queue), 'large1 small1 large2 small2 large3 large4');
  assert.equal(queue.length, 0);
});

test('a latecomer waits for one item of the others, not for all', () => {
  const queue = new FairQueue<string, number>();
  queue.add('large', [1, 2, 3]);
  assert.equal(queue.take()?.item, 1);
  queue.add('late', [1]);
  assert.equal(drain(queue), 'large2 late1 large3');
});

test('a dropped owner leaves nothing behind', () => {
  const queue = new FairQueue<string, number>();
  queue.add('a', [1, 2, 3]);
  queue.add('b', [1]);
  queue.take();
  queue.drop('a');
  assert.equal(queue.length, 1);
  assert.equal(drain(queue), 'b1');
});
