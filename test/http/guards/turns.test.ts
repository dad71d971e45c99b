import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turns } from '../../../src/http/admission/turns.js';
import { isProbe } from '../../../src/http/plugins/guards/heads.js';

test('clients take turns, and bodies have some milliseconds of each round of the event loop', async () => {
  const turns = new Turns();
  const order: string[] = [];
  let round = 0;
  let over = false;
  const count = () => {
    round++;
    if (!over) setImmediate(count);
  };
  setImmediate(count);
  const body = async (client: string) => {
    await turns.take(client);
    order.push(`${client}${round}`);
    const end = performance.now() + 6;
    while (performance.now() < end);
  };
  await Promise.all([...Array.from({ length: 5 }, () => body('greedy')), body('polite')]);
  over = true;
  assert.deepEqual(
    order.map((turn) => turn.replace(/\d/, '')),
    ['greedy', 'polite', 'greedy', 'greedy', 'greedy', 'greedy'],
  );
  assert.equal(new Set(order.map((turn) => turn.replace(/\D/g, ''))).size, 6);
  await body('greedy');
});

test('what only names a probe has no turn before others', () => {
  const probes = ['/health/live', '/loragrad/health/ready?x=1'];
  for (const url of probes)
    for (const method of ['GET', 'HEAD']) assert.ok(isProbe({ method, url }));
  const others = [
    '/gradient?/health/live',
    '/metrics?x=/health/ready',
    '/health/',
    '/health/live/x',
  ];
  for (const url of others) assert.equal(isProbe({ method: 'GET', url }), false, url);
  assert.equal(isProbe({ method: 'POST', url: '/health/live' }), false);
});
