/**
 * Faults at random moments under load: every request is answered right or with a problem, nothing hangs, and nothing is
 * left behind. LORAGRAD_TEST_FAULTS says how many faults; what came of them is told at the end.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type GradientAnswer, startServer } from '../support/processes/server.js';
import { testSeed, uniform } from '../support/random.js';
import { decodeAnswer } from '../support/wire/dialects.js';
import { type ApiProcess, largeBody, startApi, startWorker, type WorkerProcess } from './nodes.js';
import { startStore, withoutStore } from './store.js';

const MSGPACK = 'application/vnd.msgpack';
const FAULTS = Number(process.env.LORAGRAD_TEST_FAULTS ?? 5);
const TTL_MS = 4000;
/** Requests at a time. */
const CLIENTS = 3;
/** Nothing may take so long. */
const HUNG_MS = 240_000;

const seed = testSeed();

const gradientsOf = (bytes: Uint8Array) =>
  (decodeAnswer(bytes, MSGPACK) as GradientAnswer).gradients;

const skip = withoutStore;

test(`${FAULTS} faults: right answers or problems, and nothing is left behind`, {
  skip,
}, async (t) => {
  const random = uniform(seed);
  const bodies = Array.from({ length: 3 }, (_, k) => largeBody(k));
  const alone = await startServer();
  const expected: unknown[] = [];
  for (const one of bodies) {
    const response = await alone.post('/gradient', one, MSGPACK, MSGPACK);
    assert.equal(response.status, 200);
    expected.push(gradientsOf(new Uint8Array(await response.arrayBuffer())));
  }
  await alone.close();

  const store = await startStore();
  const env = { LORAGRAD_QUEUE_TTL_MS: String(TTL_MS) };
  const workers: WorkerProcess[] = [
    await startWorker(store.url, env),
    await startWorker(store.url, env),
  ];
  const api: ApiProcess[] = [await startApi(store.url, env)];
  let stop = false;
  const counts = { right: 0, cut: 0 };
  const problems: Record<string, number> = {};
  let longest = 0;

  const client = async (k: number): Promise<void> => {
    while (!stop) {
      const which = Math.floor(random() * bodies.length);
      const { url, child } = api[0]!;
      const options = {
        method: 'POST',
        headers: { 'content-type': MSGPACK },
        body: bodies[which]!,
      };
      const start = performance.now();
      try {
        const response = await fetch(`${url}/gradient`, {
          ...options,
          signal: AbortSignal.timeout(HUNG_MS),
        });
        const bytes = new Uint8Array(await response.arrayBuffer());
        if (response.status === 200) {
          assert.deepEqual(gradientsOf(bytes), expected[which], `client ${k}, body ${which}`);
          counts.right++;
        } else {
          const { type } = JSON.parse(Buffer.from(bytes).toString()) as { type: string };
          const [, kind] = type.match(/:(store-full|worker-lost|queue-full|shutting-down)$/) ?? [];
          assert.ok(kind, type);
          problems[kind] = (problems[kind] ?? 0) + 1;
          await pause(100);
        }
      } catch (error) {
        // Only a node that was killed leaves without an answer.
        assert.ok(child.killed && !(error instanceof assert.AssertionError), String(error));
        counts.cut++;
        while (api[0]!.child === child) await pause(20);
      }
      longest = Math.max(longest, performance.now() - start);
    }
  };

  const admin = new Redis(store.url, { retryStrategy: () => 100 });
  admin.on('error', () => {});
  const pick = () => workers[Math.floor(random() * workers.length)]!;
  const faults: Record<string, () => Promise<void>> = {
    'a worker is killed': async () => {
      const lost = pick();
      lost.child.kill('SIGKILL');
      workers.splice(workers.indexOf(lost), 1, await startWorker(store.url, env));
    },
    'a worker stands still': async () => {
      const { child } = pick();
      child.kill('SIGSTOP');
      await pause(1000 + 12_000 * random());
      child.kill('SIGCONT');
    },
    'a worker is asked to end': async () => {
      const leaving = pick();
      assert.equal(await leaving.end(), 0);
      workers.splice(workers.indexOf(leaving), 1, await startWorker(store.url, env));
    },
    'the store is restarted': async () => {
      await store.kill();
      await pause(2000 * random());
      await store.start();
    },
    'the store stands still': async () => {
      store.signal('SIGSTOP');
      await pause(3000 * random());
      store.signal('SIGCONT');
    },
    'connections are dropped': async () => {
      await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    },
    'an API node is killed': async () => {
      const { child } = api[0]!;
      child.kill('SIGKILL');
      api[0] = await startApi(store.url, env);
    },
  };
  const names = Object.keys(faults);
  const injected = Object.fromEntries(names.map((name) => [name, 0]));
  try {
    const load = Promise.all(Array.from({ length: CLIENTS }, (_, k) => client(k)));
    const inject = async () => {
      for (let k = 0; k < FAULTS; k++) {
        await pause(1500 * random());
        // Each kind comes before any comes again.
        const name = names[(seed + k) % names.length]!;
        console.log(`# fault ${k + 1}: ${name}, ${counts.right} right`);
        await faults[name]!();
        injected[name]!++;
      }
    };
    await Promise.race([inject(), load]);
    const sent = async () => {
      const metrics = await (await fetch(`${api[0]!.url}/metrics`)).text();
      return Number(metrics.match(/^loragrad_queue_parts_sent (\d+)$/m)?.[1]);
    };
    const { right } = counts;
    while (counts.right < right + CLIENTS || (await sent()) === 0) {
      await Promise.race([pause(50), load]);
    }
    stop = true;
    await load;
    t.diagnostic(`faults: ${JSON.stringify(injected)}`);
    t.diagnostic(`answers: ${JSON.stringify({ ...counts, problems })}`);
    t.diagnostic(`the longest took ${(longest / 1000).toFixed(1)} s`);
    const own = /:parts-[^:]+:(?:meta|id|events|stalled-check|pc|marker)$|:alive:/;
    for (let left = ['']; left.length > 0; ) {
      await pause(200);
      left = (await admin.keys('*')).filter((key) => !own.test(key));
    }
    t.diagnostic('no key and no job is left in the store');
  } finally {
    stop = true;
    admin.disconnect();
    await api[0]!.end();
    await Promise.all(workers.map((worker) => worker.end()));
    await store.close();
  }
});

test('SIGTERM ends a worker whose store is gone, and one that has never seen it', {
  skip,
}, async () => {
  const store = await startStore();
  const worker = await startWorker(store.url);
  await store.kill();
  assert.equal(await worker.end(), 0);
  const waiting = await startWorker(store.url, {}, [], /the worker waits for it/);
  assert.equal(await waiting.end(), 0);
});
