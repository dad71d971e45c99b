import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { ThreadedEngine } from '../../src/engine/engine.js';
import { Problem } from '../../src/errors.js';
import { allocateTensor } from '../../workers/tensor/tensor.js';
import { RATES } from '../support/processes/server.js';

test('a thread of the engine that ends is replaced as soon as another can begin; until then requests are refused', async () => {
  const threads: Worker[] = [];
  const note = (thread: Worker) => threads.push(thread);
  process.on('worker', note);
  const enough = 120_000;
  const options = { workers: 1, warmUpMs: enough, rates: RATES, kernels: 'wasm' as const };
  const engine = await ThreadedEngine.start(options);
  try {
    const ask = () => {
      const { signal } = new AbortController();
      const tensor = allocateTensor('float32', [1]);
      return engine.run({ kind: 'give', tensor }, { signal, form: null, owner: 'test', start: 0 })
        .answer;
    };
    const lost = (error: unknown) => error instanceof Problem && error.kind === 'worker-lost';
    await ask();
    // The next one does not get so far.
    options.warmUpMs = 1;
    await threads[0]!.terminate();
    while (threads.length < 2) await assert.rejects(ask(), lost);
    await assert.rejects(ask(), lost);
    options.warmUpMs = enough;
    while (!(await ask().catch(() => null))) await new Promise((go) => setTimeout(go, 20));
  } finally {
    process.off('worker', note);
    await engine.close();
  }
});
