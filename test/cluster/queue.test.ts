/** Parts of problems on other machines: the same answers bit by bit, whatever becomes of workers and store. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { connection } from '../../src/cluster/connection.js';
import { PREFIX } from '../../src/cluster/names.js';
import type { Problem } from '../../src/errors.js';
import { type ExactResult, exactParts } from '../../workers/kernels/exact/gradient.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { type ProblemOptions, randomProblem, randomStates } from '../kernels/problems.js';
import { named } from '../kernels/run.js';
import { testSeed } from '../support/random.js';
import { cluster } from './cluster.js';
import { cutsOf, knows, large, startWorker } from './nodes.js';
import { withoutStore } from './store.js';

const seed = testSeed();
const { signal } = new AbortController();

const jobOf = (problem: AttentionProblem, inputGradients?: 'attention') => {
  const options = { attentionOutput: true, inputGradients, estimate: { rows: 16, seed } };
  return large(exactParts(problem, options, cutsOf(problem)));
};

function assertSame(a: ExactResult, b: ExactResult): void {
  assert.deepEqual(named(a), named(b));
  assert.deepEqual(a.attentionOutput, b.attentionOutput);
  assert.deepEqual(a.errors, b.errors);
  assert.equal(a.loss, b.loss);
  assert.deepEqual(a.headNorms, b.headNorms);
}

const GROUPED = { batch: 2, heads: 4, keyValueHeads: 2, queryLength: 300 };
const CASES: Record<string, Omit<ProblemOptions, 'seed'>> = {
  causal: { ...GROUPED, causal: true, objective: 'target' },
  'rotary positions': { ...GROUPED, rotary: true, bias: true },
  'padding, float64': { ...GROUPED, keyLengths: [300, 11], dtype: 'float64' },
};
/** Eight parts, each of which takes a worker much longer than it takes to see that it has one. */
const LONG = { batch: 2, heads: 4, headDim: 32, queryLength: 3000, seed };
const long = randomProblem(LONG);

const skip = withoutStore;
const { workers } = cluster;
const here = (problem: AttentionProblem, inputGradients?: 'attention') =>
  cluster.node.pool.run(jobOf(problem, inputGradients), { signal });
/** What every test of the long problem has to find. */
let ofLong: Promise<ExactResult> | undefined;
const longHere = () => {
  ofLong ??= here(long);
  return ofLong;
};

/** Resolves when a worker has a part of it, or when it was done before that was seen. */
async function underWay(run: Promise<unknown>): Promise<void> {
  let over = false;
  const end = () => {
    over = true;
  };
  run.then(end, end);
  // The queue itself is asked: what the node knows of it is up to a second old, in which a fast machine is done.
  while (!over && (await cluster.node.queue.getActiveCount()) === 0) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('1 and 2 workers: the same answer as without, bit by bit', { skip }, async () => {
  const { node } = cluster;
  for (const count of [1, 2]) {
    await cluster.have(count);
    for (const options of Object.values(CASES)) {
      const problem = randomProblem({ ...options, seed });
      const { partsSent } = node.figures();
      assertSame(await node.run(jobOf(problem), { signal }), await here(problem));
      assert.equal(node.figures().partsSent, partsSent + 4);
    }
    const states = randomStates({ ...GROUPED, sinks: true, seed });
    const found = await node.run(jobOf(states, 'attention'), { signal });
    assertSame(found, await here(states, 'attention'));
  }
});

test('a tensor that all parts share is sent once, and not again by the next request', {
  skip,
}, async () => {
  const { node } = cluster;
  const problem = randomProblem({ ...GROUPED, inFeatures: 512, seed: seed + 1 });
  const inputs = problem.inputs.query.data.byteLength;
  const before = node.figures().bytesSent;
  await node.run(jobOf(problem), { signal });
  const first = node.figures().bytesSent - before;
  assert.ok(first >= inputs && first < 1.5 * inputs, `${first} bytes for ${inputs}`);
  await node.run(jobOf(problem), { signal });
  assert.ok(node.figures().bytesSent - before - first < 0.2 * inputs);
});

test('rows that are queries of one part and keys of others are sent once', { skip }, async () => {
  const { node } = cluster;
  const size = { heads: 1, queryLength: 4000, inFeatures: 256, causal: true };
  const problem = randomProblem({ ...size, seed: seed + 3 });
  const all = { first: 0, last: 1 };
  const cuts = [0, 1, 2, 3].map((k) => {
    return { items: all, sharedHeads: all, rows: { first: 1000 * k, last: 1000 * (k + 1) } };
  });
  const job = () => large(exactParts(problem, { attentionOutput: true }, cuts));
  const before = node.figures().bytesSent;
  const found = await node.run(job(), { signal });
  const { inputs, objective } = problem;
  const least = inputs.query.data.byteLength + objective.tensor.data.byteLength;
  const sent = node.figures().bytesSent - before;
  assert.ok(sent >= least && sent < 1.1 * least, `${sent} bytes for ${least}`);
  assertSame(found, await node.pool.run(job(), { signal }));
});

test('what is given up stops on other machines too, and leaves no job', {
  skip,
}, async () => {
  const { node } = cluster;
  const controller = new AbortController();
  let tasks = 0;
  const run = node.run(jobOf(long), {
    signal: controller.signal,
    onStart: () => tasks++,
  });
  const failed = assert.rejects(run, /given up/);
  await underWay(run);
  controller.abort(new Error('given up'));
  await failed;
  while ((await node.queue.getActiveCount()) > 0)
    await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(await node.queue.getWaitingCount(), 0);
  assert.ok(tasks > 0);
});

test('a worker that is killed: its part is done by another', { skip }, async () => {
  const { node } = cluster;
  const run = node.run(jobOf(long), { signal });
  await underWay(run);
  workers[0]!.child.kill('SIGKILL');
  assertSame(await run, await longHere());
  workers.shift();
});

test('a worker that is asked to end finishes its part first', { skip }, async () => {
  const { node } = cluster;
  await cluster.have(2);
  const run = node.run(jobOf(long), { signal });
  await underWay(run);
  assert.equal(await workers.shift()!.end(), 0);
  assertSame(await run, await longHere());
});

test('a store that loses all it has, and comes back: the same answer', { skip }, async () => {
  const { node, store } = cluster;
  const run = node.run(jobOf(long), { signal });
  await underWay(run);
  await store.kill();
  await store.start();
  assertSame(await run, await longHere());
});

test('a store that stays away: the node computes by itself', { skip }, async () => {
  const { node, store } = cluster;
  await knows(node, workers.length);
  const run = node.run(jobOf(long), { signal });
  await underWay(run);
  await store.kill();
  assertSame(await run, await longHere());
  await store.start();
  await knows(node, workers.length);
});

test('a store that stands still while parts are sent: the node computes by itself', {
  skip,
}, async () => {
  const { node, store } = cluster;
  await knows(node, workers.length);
  const run = node.run(jobOf(randomProblem({ ...LONG, queryLength: 500 })), { signal });
  store.signal('SIGSTOP');
  await run;
  store.signal('SIGCONT');
  await knows(node, workers.length);
});

test('a full store: 503 with Retry-After', { skip }, async () => {
  const { node, store } = cluster;
  const admin = new Redis(store.url);
  await admin.config('SET', 'maxmemory', '2mb');
  const problem = randomProblem({ ...LONG, inFeatures: 256 });
  await assert.rejects(node.run(jobOf(problem), { signal }), (error: Problem) => {
    return error.statusCode === 503 && error.options.headers?.['retry-after'] !== undefined;
  });
  await admin.config('SET', 'maxmemory', '0');
  const small = randomProblem({ ...GROUPED, seed });
  assertSame(await node.run(jobOf(small), { signal }), await here(small));
  admin.disconnect();
});

test('workers with another build of the kernels take no part: the node computes by itself', {
  skip,
}, async () => {
  const { node, store } = cluster;
  await cluster.have(0);
  workers.push(await startWorker(store.url, { LORAGRAD_KERNELS: 'wasm' }));
  await knows(node, node.kernels.startsWith('wasm') ? 1 : 0);
  const problem = randomProblem({ ...GROUPED, seed: seed + 2 });
  assertSame(await node.run(jobOf(problem), { signal }), await here(problem));
});

test('a worker that fails, and one that names nonsense: the node computes by itself', {
  skip,
}, async () => {
  const { node, store } = cluster;
  await cluster.have(0);
  const nonsense = { result: { digest: 'none', bytes: 2 ** 50 } };
  const answers = [() => Promise.reject(new Error('out of memory')), async () => nonsense];
  const problem = randomProblem({ ...GROUPED, seed: seed + 3 });
  for (const answer of answers) {
    const worker = new Worker(node.queue.name, answer, {
      connection: connection(store.url),
      prefix: PREFIX,
    });
    await knows(node, 1);
    assertSame(await node.run(jobOf(problem), { signal }), await here(problem));
    await worker.close();
  }
});
