import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '../../../src/config.js';
import type { Engine } from '../../../src/engine/engine.js';
import { Problem, type ProblemDetails } from '../../../src/errors.js';
import { buildApp } from '../../../src/http/app.js';
import { pack, validBody } from '../../support/wire/bodies.js';

/** Whatever it runs ends its workers. */
function deadlyEngine(): Engine & { readonly runs: number } {
  let runs = 0;
  return {
    kernels: 'wasm-plain',
    rates: { exact: 1e9, lowRank: 1e9 },
    load: () => ({ workers: 1, busy: 0, jobs: 0, waiting: 0, restarts: 0 }),
    queue: () => null,
    healthy: () => true,
    close: async () => {},
    run: () => {
      runs++;
      const answer = Promise.reject(new Problem('ends-workers', 'It was begun twice.'));
      return { answer, settled: Promise.resolve() };
    },
    get runs() {
      return runs;
    },
  };
}

test('a request that has ended two workers is refused when it is sent again; others are not', async (context) => {
  const engine = deadlyEngine();
  const app = await buildApp(readConfig({ LOG_LEVEL: 'silent' }), engine);
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  const send = async (body: object, path = '/gradient') => {
    const response = await fetch(url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/vnd.msgpack' },
      body: new Uint8Array(pack(body)),
    });
    const { type, detail } = (await response.json()) as ProblemDetails;
    assert.deepEqual([response.status, type], [422, 'urn:loragrad:problem:ends-workers']);
    return { refused: /the same request/i.test(detail), runs: engine.runs };
  };
  const body = validBody();
  const other = { ...validBody(), seed: 1 };
  try {
    assert.deepEqual(await send(body), { refused: false, runs: 1 });
    assert.deepEqual(await send(body), { refused: true, runs: 1 });
    assert.deepEqual(await send(other), { refused: false, runs: 2 });
    assert.deepEqual(await send(body, '/plan'), { refused: false, runs: 3 });
    const now = performance.now();
    context.mock.method(performance, 'now', () => now + 61_000);
    assert.deepEqual(await send(body), { refused: false, runs: 4 });
  } finally {
    await app.close();
  }
});
