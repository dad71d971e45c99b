/** A computation lasts no longer than somebody waits for its answer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { metricIs, metricReaches } from '../../support/processes/held.js';
import { startServer } from '../../support/processes/server.js';
import { endlessBody } from '../../support/wire/bodies.js';

const contentType = 'application/vnd.msgpack';
const body = endlessBody();

async function cancelled(url: string, reason: string): Promise<boolean> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const counted = metrics.match(new RegExp(`cancelled_total{reason="${reason}"} (\\d+)`));
  return Number(counted?.[1] ?? 0) === 1;
}

test('past the deadline the answer is 504', async () => {
  const server = await startServer({ LORAGRAD_DEADLINE_MS: '200' });
  try {
    const response = await server.post('/gradient', body, contentType, contentType);
    assert.equal(response.status, 504);
    const problem = (await response.json()) as { type: string; limit: number };
    assert.match(problem.type, /deadline-exceeded$/);
    assert.equal(problem.limit, 200);
    assert.ok(await cancelled(server.url, 'deadline-exceeded'));
  } finally {
    await server.close();
  }
});

test('when the client goes away the computation is given up', async () => {
  const server = await startServer();
  try {
    // Its threads may be at work for another server still.
    await metricIs(server.url, 'loragrad_jobs', 0);
    const client = new AbortController();
    const answer = fetch(`${server.url}/gradient`, {
      method: 'POST',
      headers: { 'content-type': contentType },
      body,
      signal: client.signal,
    });
    // The job and, as soon as it is cut, its parts.
    await metricReaches(server.url, 'loragrad_jobs', 1);
    client.abort();
    await assert.rejects(answer, { name: 'AbortError' });
    // If the computation went on this would last until the test is timed out.
    while (!(await cancelled(server.url, 'client-gone'))) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  } finally {
    await server.close();
  }
});
