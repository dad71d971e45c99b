import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { ProblemDetails } from '../../../src/errors.js';
import { longRequest, metricIs } from '../../support/processes/held.js';
import { sharedServer } from '../../support/processes/server.js';
import { FLOAT64, longBody } from '../../support/wire/bodies.js';

const MSGPACK = 'application/vnd.msgpack';

const server = await sharedServer({ LORAGRAD_MAX_COMPUTE_SECONDS: '1000' });

const post = (bytes: Uint8Array) => server.post('/gradient', bytes, MSGPACK, MSGPACK);

async function progress(): Promise<number> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  return Number(metrics.match(/^loragrad_oldest_job_progress_ratio (\S+)$/m)?.[1]);
}

test('a long computation shows how far it is, a short one is served meanwhile', async () => {
  const done = async (length: number) => {
    assert.equal((await post(longBody(length, 64))).status, 200);
    return performance.now();
  };
  const long = done(12_288);
  const seen: number[] = [];
  while (!seen.some((fraction) => fraction > 0.2)) {
    seen.push(await progress());
    await pause(10);
  }
  const short = done(64);
  assert.ok((await short) < (await long), 'the short one waited for the whole of the long one');
  assert.deepEqual(
    seen,
    [...seen].sort((a, b) => a - b),
    'progress went backwards',
  );
  assert.ok(seen.every((fraction) => fraction >= 0 && fraction <= 1));
});

test('a short computation is served beside one of minutes in float64', async () => {
  const long = longRequest(server.url);
  await metricIs(server.url, 'loragrad_workers_busy', 1);
  assert.equal((await post(longBody(64, 64))).status, 200);
  await metricIs(server.url, 'loragrad_inflight_requests', 1);
  long.destroy();
  await metricIs(server.url, 'loragrad_inflight_requests', 0);
});

test('a computation that would take too long is refused before it begins', async () => {
  const refused = await post(longBody(60_000, 16, FLOAT64));
  const problem = (await refused.json()) as ProblemDetails;
  assert.equal(refused.status, 422);
  assert.match(problem.type, /limit-exceeded$/);
  assert.match(
    problem.detail,
    /^This request may take \d+ seconds of one worker; the limit is 1000\. Send fewer/,
  );
  assert.ok(problem.actual! > problem.limit!);
});
