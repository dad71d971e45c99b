import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FairQueue, type Member } from '../../src/pool/fair-queue.js';

class Job implements Member {
  ready = true;
  constructor(
    readonly name: string,
    public waiting: number,
    readonly owner = '',
  ) {}
}

/** Each turn takes one task. */
function drain(queue: FairQueue<Job>): string {
  const order: string[] = [];
  for (let job = queue.take(); job; job = queue.take()) {
    order.push(job.name + job.waiting);
    job.waiting--;
  }
  return order.join(' ');
}

test('jobs take turns', () => {
  const queue = new FairQueue<Job>();
  queue.add(new Job('large', 4));
  queue.add(new Job('small', 2));
  assert.equal(queue.waiting, 6);
  assert.equal(drain(queue), 'large4 small2 large3 small1 large2 large1');
  assert.equal(queue.waiting, 0);
});

test('owners take turns, whatever the number of their jobs', () => {
  const queue = new FairQueue<Job>();
  for (const name of ['a', 'b', 'c']) queue.add(new Job(name, 2, 'greedy'));
  queue.add(new Job('x', 3, 'polite'));
  assert.equal(drain(queue), 'a2 x3 b2 x2 c2 x1 a1 b1 c1');
  assert.equal(queue.take(), null);
});

test('a latecomer waits for one turn of the others, not for all', () => {
  const queue = new FairQueue<Job>();
  const large = new Job('large', 3);
  queue.add(large);
  assert.equal(queue.take(), large);
  large.waiting--;
  queue.add(new Job('late', 1));
  assert.equal(drain(queue), 'large2 late1 large1');
});

test('who has nothing left, finished or failed, is out of the queue', () => {
  const queue = new FairQueue<Job>();
  const failed = new Job('a', 3);
  queue.add(failed);
  queue.add(new Job('b', 1));
  queue.take();
  failed.waiting = 0;
  assert.equal(queue.waiting, 1);
  assert.equal(drain(queue), 'b1');
});

test('who is not ready is passed over and keeps its place', () => {
  const queue = new FairQueue<Job>();
  const chain = new Job('chain', 2);
  chain.ready = false;
  queue.add(chain);
  queue.add(new Job('other', 1));
  assert.equal(queue.take()?.name, 'other');
  chain.ready = true;
  assert.equal(queue.take()?.name, 'chain');
});
