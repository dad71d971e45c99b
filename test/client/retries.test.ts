/** Patience with a busy service: 429 from the real one, 502 and 503 as a proxy would answer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, ProblemError } from 'loragrad-client';
import { randomLayer } from '../support/client-problem.js';
import { longRequest, metricIs } from '../support/processes/held.js';
import { sharedServer } from '../support/processes/server.js';

const server = await sharedServer({ LORAGRAD_MAX_REQUESTS: '1' });

const small = randomLayer(12, 8).step(10);

/** fetch that notes the status, or the failure, of every attempt; `onRefused` is called after the first. */
function noting(onRefused = () => {}): {
  fetch: typeof globalThis.fetch;
  seen: (number | string)[];
} {
  const seen: (number | string)[] = [];
  const fetch: typeof globalThis.fetch = async (input, init) => {
    try {
      const response = await globalThis.fetch(input, init);
      seen.push(response.status);
      return response;
    } catch (error) {
      seen.push((error as { cause?: { code?: string } }).cause?.code ?? 'aborted');
      throw error;
    } finally {
      if (seen.length === 1) onRefused();
    }
  };
  return { fetch, seen };
}

/** Takes the only place in the house until it is released: others are told to come again after a third of its work. */
async function occupied(): Promise<() => void> {
  const socket = longRequest(server.url, 3500);
  await metricIs(server.url, 'loragrad_inflight_requests', 1);
  return () => socket.destroy();
}

test('429: the call waits as long as Retry-After says, and succeeds', async () => {
  const release = await occupied();
  const { fetch, seen } = noting(release);
  const start = performance.now();
  const answer = new Client(server.url, { fetch }).gradient(small);
  assert.ok((await answer).gradients?.q_proj);
  assert.deepEqual(seen, [429, 200]);
  assert.ok(performance.now() - start >= 1000);
});

test('429 to a large body, before all of it is sent', async () => {
  const large = { ...randomLayer(64, 1024).step(10), method: 'exact' as const };
  const release = await occupied();
  const { fetch, seen } = noting(release);
  const answer = new Client(server.url, { fetch }).gradient(large);
  assert.ok((await answer).gradients?.q_proj);
  assert.equal(seen.at(-1), 200);
  assert.ok(seen.length > 1, String(seen));
});

test('when patience ends the refusal is thrown', async () => {
  const release = await occupied();
  const { fetch, seen } = noting();
  // Asked again while the place is taken, however fast the machine is.
  const soon: typeof fetch = async (input, init) => {
    const { body, status, headers } = await fetch(input, init);
    const entries = [...headers].filter(([name]) => name !== 'retry-after');
    return new Response(body, { status, headers: [...entries, ['retry-after', '0']] });
  };
  const refused = new Client(server.url, { fetch: soon, retries: 1 }).gradient(small);
  await assert.rejects(refused, (error: unknown) => {
    assert.ok(error instanceof ProblemError);
    assert.equal(error.type, 'urn:loragrad:problem:queue-full');
    assert.deepEqual([error.status, error.limit, error.actual], [429, 1, 2]);
    return true;
  });
  assert.deepEqual(seen, [429, 429]);
  release();
});

test('aborted while it waits', async () => {
  const release = await occupied();
  const controller = new AbortController();
  const { fetch, seen } = noting(() => setTimeout(() => controller.abort(), 100));
  const waiting = new Client(server.url, { fetch }).gradient(small, { signal: controller.signal });
  await assert.rejects(waiting, { name: 'AbortError' });
  assert.deepEqual(seen, [429], 'it did not wait for Retry-After');
  release();
});

const retryAfter: Record<string, () => string | null> = {
  seconds: () => '1',
  'a date': () => new Date(Date.now() + 2000).toUTCString(),
  nothing: () => null,
  nonsense: () => 'soon',
};
for (const [name, header] of Object.entries(retryAfter)) {
  const status = header() ? 503 : 502;
  test(`${status} with Retry-After: ${name}`, async () => {
    let attempts = 0;
    const flaky: typeof globalThis.fetch = async (input, init) => {
      attempts += 1;
      if (attempts > 1) return globalThis.fetch(input, init);
      const value = header();
      return new Response('', { status, headers: value ? { 'retry-after': value } : {} });
    };
    const start = performance.now();
    assert.ok(await new Client(server.url, { fetch: flaky }).plan(small));
    const waited = performance.now() - start;
    assert.equal(attempts, 2);
    if (header()?.match(/\d/)) assert.ok(waited >= 1000, String(waited));
    else assert.ok(waited >= 125, String(waited));
  });
}
