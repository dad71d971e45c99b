import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { WorkerPool } from '../../src/pool/worker-pool.js';
import type { Job, Task } from '../../workers/job.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { DecodeTask } from '../../workers/tasks/decode.js';
import { type DigestTask, runDigestTask } from '../../workers/tasks/digest.js';
import type { WarmUpTask } from '../../workers/tasks/warm-up.js';
import { randomProblem } from '../kernels/problems.js';

const WORKERS = 2;
/** However busy the machine is. */
const WARM_UP_MS = 120_000;
const RATES = { exact: 1e9, lowRank: 1e9 };
let pool: WorkerPool;
before(async () => {
  pool = await WorkerPool.start({ workers: WORKERS, warmUpMs: WARM_UP_MS, rates: RATES });
});
after(() => pool.close());

const never = () => new AbortController().signal;

/** Holds a worker until `open` is called: it waits for one more arrival than there are workers. */
function gate(): {
  readonly job: Job<void>;
  readonly task: WarmUpTask;
  /** Resolves when it holds one. */
  holds(): Promise<void>;
  open(): void;
} {
  const arrived = new Int32Array(new SharedArrayBuffer(4));
  const task: WarmUpTask = { kernel: 'warm_up', arrived, expected: 1000 };
  return {
    task,
    job: (function* () {
      yield { name: 'gate', tasks: [task] };
    })(),
    holds: async () => {
      while (Atomics.load(arrived, 0) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    },
    open: () => {
      Atomics.add(arrived, 0, 1000);
      Atomics.notify(arrived, 0);
    },
  };
}

const idle = async () => {
  while (pool.load().busy > 0) await new Promise((resolve) => setTimeout(resolve, 1));
};

test('results come back in the order of the tasks, stage by stage', async () => {
  const problem = randomProblem({ seed: 1, queryLength: 9 });
  function* twice(): Job<GradientResult[]> {
    const first = yield* referenceJob(problem, { attentionOutput: false });
    const second = yield* referenceJob(problem, { attentionOutput: false });
    return [first, second];
  }
  const [first, second] = await pool.run(twice(), { signal: never() });
  assert.deepEqual(first.gradients, second.gradients);
  assert.ok(first.gradients.q_proj?.lora_A.some((x) => x !== 0));
});

test('after a rest the threads compute as before', async () => {
  const problem = randomProblem({ seed: 3, queryLength: 9 });
  const solve = () => pool.run(exactJob(problem, { attentionOutput: false }), { signal: never() });
  const before = await solve();
  await pool.rest();
  await idle();
  assert.deepEqual((await solve()).gradients, before.gradients);
});

test('a stage without tasks is passed', async () => {
  function* empty(): Job<string> {
    const results = yield { name: 'nothing', tasks: [] };
    return `${results.length} results`;
  }
  assert.equal(await pool.run(empty(), { signal: never() }), '0 results');
});

test('a task that fails fails its job and no other', async () => {
  function* broken(): Job<void> {
    yield { name: 'broken', tasks: [{ kernel: 'reference' } as Task] };
  }
  await assert.rejects(pool.run(broken(), { signal: never() }), /not iterable/);
  const result = await pool.run(
    referenceJob(randomProblem({ seed: 2, queryLength: 3 }), { attentionOutput: false }),
    { signal: never() },
  );
  assert.ok(result.gradients.q_proj);
});

test('an abort stops a running task, frees its worker, and rejects with the reason', async () => {
  const held = gate();
  const controller = new AbortController();
  const run = pool.run(held.job, { signal: controller.signal });
  while (pool.load().busy === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  controller.abort(new Error('nobody waits'));
  await assert.rejects(run, /nobody waits/);
  assert.deepEqual(pool.load(), {
    ...{ workers: WORKERS, busy: 0, jobs: 0, waiting: 0, restarts: 0 },
  });
});

test('an abort drops the tasks that still wait', async () => {
  const gates = Array.from({ length: WORKERS }, gate);
  const holding = gates.map(({ job }) => pool.run(job, { signal: never() }));
  while (pool.load().busy < WORKERS) await new Promise((resolve) => setTimeout(resolve, 1));
  const controller = new AbortController();
  const waiting = pool.run(
    referenceJob(randomProblem({ seed: 3, queryLength: 3 }), { attentionOutput: false }),
    { signal: controller.signal },
  );
  assert.equal(pool.load().waiting, 1);
  controller.abort(new Error('gave up'));
  await assert.rejects(waiting, /gave up/);
  assert.equal(pool.load().waiting, 0);
  for (const { open } of gates) open();
  await Promise.all(holding);
});

/** Digests of a text: each task gives its own, in microseconds. */
function digestTask(k: number): DigestTask {
  const bytes = new Uint8Array(new SharedArrayBuffer(4));
  bytes[0] = k;
  return { kernel: 'digest', dtype: 'float32', shape: [1], bytes };
}

test('many short tasks are run by few messages, and each of them once', async () => {
  const tasks = Array.from({ length: 200 }, (_, k) => digestTask(k));
  const reports: number[] = [];
  const job = (function* (): Job<unknown[]> {
    return [...(yield { name: 'digests', tasks })];
  })();
  const results = await pool.run(job, {
    signal: never(),
    onProgress: (progress) => reports.push(progress.tasks),
  });
  assert.deepEqual(
    results,
    tasks.map((task) => runDigestTask(task, () => false)),
  );
  assert.equal(
    reports.reduce((a, b) => a + b, 0),
    tasks.length,
  );
  assert.ok(reports.length < tasks.length, 'every task travelled alone');
});

test('brief stages share a turn: what its time does not reach is begun again, failures and aborts are their own', async () => {
  function* brief(task: Task): Job<unknown> {
    return (yield { name: 'brief', tasks: [task], brief: true })[0];
  }
  const [one, two, long] = [gate(), gate(), gate()];
  const gates = [one, two].map(({ job }) => pool.run(job, { signal: never() }));
  const first = pool.run(brief(long.task), { signal: never() });
  const tasks = Array.from({ length: 6 }, (_, k) => digestTask(k));
  const starts = tasks.map(() => 0);
  const digests = tasks.map((task, k) =>
    pool.run(brief(task), { signal: never(), onStart: () => starts[k]++ }),
  );
  const broken = pool.run(brief({ kernel: 'reference' } as Task), { signal: never() });
  const controller = new AbortController();
  const aborted = pool.run(brief(digestTask(9)), { signal: controller.signal });
  const ends = [
    assert.rejects(broken, /not iterable/),
    assert.rejects(aborted, (reason) => reason === controller.signal.reason),
  ];
  one.open();
  controller.abort(new Error('nobody waits'));
  await long.holds();
  // Longer than a turn.
  await new Promise((resolve) => setTimeout(resolve, 30));
  long.open();
  two.open();
  await Promise.all([...gates, first, ...ends]);
  assert.deepEqual(
    await Promise.all(digests),
    tasks.map((task) => runDigestTask(task, () => false)),
  );
  assert.equal(starts[0], 2, 'it was in a turn whose first stage took all the time');
});

test('tasks of a chain run one after the other, chains at the same time', async () => {
  // Each task copies what the task before it in its chain has copied.
  const [chains, length, size] = [2, 100, 10_000];
  const links = Array.from({ length: chains * (length + 1) }, (_, k) =>
    new Float32Array(new SharedArrayBuffer(4 * size)).fill(k < chains ? k + 1 : 0),
  );
  const tasks = links.slice(chains).map((target, k): DecodeTask => {
    const bytes = new Uint8Array(links[k].buffer);
    return {
      kernel: 'decode',
      parts: [{ pointer: '', dtype: 'float32', bytes, target, offset: 0 }],
    };
  });
  const job = (function* (): Job<void> {
    yield { name: 'chains', tasks, stride: chains };
  })();
  await pool.run(job, { signal: never() });
  for (const [k, link] of links.entries()) {
    assert.ok(
      link.every((x) => x === (k % chains) + 1),
      `link ${k}`,
    );
  }
});

test('an abort frees a worker that waits for the task before', async () => {
  const held = gate();
  const controller = new AbortController();
  const job = (function* (): Job<void> {
    // Two chains, so that both workers may begin; the second worker ends up behind the gate.
    yield { name: 'chains', tasks: [held.task, digestTask(1), digestTask(2)], stride: 2 };
  })();
  const run = pool.run(job, { signal: controller.signal });
  while (pool.load().waiting > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  controller.abort(new Error('nobody waits'));
  await assert.rejects(run, /nobody waits/);
  assert.equal(pool.load().busy, 0);
});

test('a job that is aborted before it starts runs nothing', async () => {
  const signal = AbortSignal.abort(new Error('too late'));
  await assert.rejects(pool.run(gate().job, { signal }), /too late/);
  await idle();
  assert.equal(pool.load().busy, 0);
});

test('a pool whose workers cannot get ready in time fails to start', async () => {
  await assert.rejects(WorkerPool.start({ workers: 1, warmUpMs: 1 }), /not ready within 1 ms/);
});

test('a worker that runs out of memory fails its job, is replaced, and the others go on', async () => {
  const narrow = await WorkerPool.start({
    ...{ workers: 1, warmUpMs: WARM_UP_MS, rates: RATES, heapMiB: 48 },
  });
  try {
    const { signal } = new AbortController();
    const data = new Float32Array(new SharedArrayBuffer(0));
    const tensor = { dtype: 'float32', shape: [0], data, target: new Uint8Array(data.buffer) };
    // What it tells of two million tensors does not fit.
    const large = { kernel: 'encode', tensors: new Array(2 ** 21).fill(tensor) };
    const job = (function* (): Job<void> {
      yield { name: 'large', tasks: [large] };
    })();
    await assert.rejects(narrow.run(job, { signal }), { name: 'WorkerLostError' });
    assert.equal(narrow.load().restarts, 1);
    const outputs = { attentionOutput: false };
    const small = await narrow.run(
      referenceJob(randomProblem({ seed: 2, queryLength: 3 }), outputs),
      {
        signal,
      },
    );
    assert.ok(small.gradients.q_proj);
  } finally {
    await narrow.close();
  }
});

test('a pool that is closed while its threads rest ends without a failure', async () => {
  const other = await WorkerPool.start({ workers: 1, warmUpMs: WARM_UP_MS, rates: RATES });
  await Promise.all([other.rest(), other.close()]);
});
