/** A request that is given up ends its parts on other machines by a message, however long they would go on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PartWorker } from '../../src/cluster/part-worker.js';
import type { Executor, RunContext } from '../../src/pool/executor.js';
import { type LargeTask, parts } from '../../workers/job.js';
import { cluster } from './cluster.js';
import { knows, large } from './nodes.js';
import { withoutStore } from './store.js';

const skip = withoutStore;

/** Runs nothing: what it is given ends when it is told to. */
class Endless implements Executor {
  /** What runs now. */
  readonly running = new Set<RunContext>();
  readonly kernels = cluster.node.kernels;
  readonly rates = cluster.node.rates;

  run<Result>(_job: unknown, context: RunContext): Promise<Result> {
    const { signal } = context;
    this.running.add(context);
    return new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        this.running.delete(context);
        reject(signal.reason as Error);
      });
    });
  }

  load() {
    return { workers: 1, busy: 0, jobs: 0, waiting: 0, restarts: 0 };
  }

  async rest() {}

  async close() {}
}

const part = (k: number): LargeTask => ({ kernel: `none ${k}`, flops: 1 });

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('what is given up ends at once, by itself and by its deadline; other requests go on', {
  skip,
}, async () => {
  const { node, store } = cluster;
  const pool = new Endless();
  const worker = new PartWorker(
    pool,
    { url: store.url, ttlMs: 60_000, cacheBytes: 2 ** 20 },
    function* () {
      yield { name: 'none', tasks: [] };
    },
  );
  await worker.ready();
  await knows(node, 1);
  const begin = (k: number, signal: AbortSignal) =>
    node.run(large(parts([part(k)], function* () {})), { signal });
  const [one, other] = [new AbortController(), new AbortController()];
  const given = assert.rejects(begin(1, one.signal), /given up/);
  await until(() => pool.running.size === 1);
  const goesOn = assert.rejects(begin(2, other.signal), /in the end/);
  await until(() => pool.running.size === 2);
  one.abort(new Error('given up'));
  await given;
  // Nobody asks the store whether a part is still wanted: without the message this would not end.
  await until(() => pool.running.size === 1);
  await assert.rejects(begin(3, AbortSignal.timeout(300)), { name: 'TimeoutError' });
  await until(() => pool.running.size === 1);
  other.abort(new Error('in the end'));
  await goesOn;
  await until(() => pool.running.size === 0);
  assert.equal(worker.figures().parts, 0);
  await worker.close();
});
