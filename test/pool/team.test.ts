/** A team of two threads: the primary thread is that of the test. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { MessageChannel, Worker } from 'node:worker_threads';
import { WorkerPool } from '../../src/pool/worker-pool.js';
import { type Cancelled, CancelledError } from '../../workers/job.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { lose, Team, teamWords } from '../../workers/team.js';
import { randomProblem } from '../kernels/problems.js';
import { OTHER, runTestTask, type TestTask } from './joiner.js';

const PRIMARY = 1;
const word = () => new Int32Array(new SharedArrayBuffer(4));
const task = (name: string, rest: Partial<TestTask> = {}): TestTask => {
  return { kernel: 'test', name, by: word(), ...rest };
};

/** Blocks this thread, as a worker would. */
function waitFor(words: Int32Array): void {
  while (Atomics.load(words, 0) === 0) Atomics.wait(words, 0, 0, 1);
}

function open(gate: Int32Array): void {
  Atomics.store(gate, 0, 1);
  Atomics.notify(gate, 0);
}

interface Subject {
  readonly team: Team;
  readonly words: Int32Array;
  /** Runs a stage; `first` is what the primary thread does in its first task. */
  all(tasks: readonly TestTask[], first?: () => void, stride?: number): readonly unknown[];
}

/** @param use is over before the other thread has to be. */
async function withTeam(use: (subject: Subject) => void, cancelled: Cancelled = () => false) {
  const words = teamWords();
  const { port1, port2 } = new MessageChannel();
  const worker = new Worker(new URL('./joiner.js', import.meta.url), {
    workerData: { kernel: 'team', port: port2, words },
    transferList: [port2],
  });
  const ended = once(worker, 'exit');
  await once(worker, 'online');
  const team = new Team({ ports: [port1], words }, cancelled);
  const all: Subject['all'] = (tasks, first, stride) => {
    let isFirst = true;
    return team.all({ name: 'test', tasks, ...(stride && { stride }) }, (one) => {
      if (isFirst) first?.();
      isFirst = false;
      return runTestTask(one as TestTask, PRIMARY, cancelled);
    });
  };
  try {
    use({ team, words, all });
  } finally {
    team.close();
  }
  assert.deepEqual(await ended, [0]);
}

test('another thread takes tasks of a stage, results are in the order of the tasks', async () => {
  await withTeam(({ all }) => {
    for (const round of ['first', 'second']) {
      const tasks = [task(`${round} a`), task(`${round} b`), task(`${round} c`)];
      // The primary thread holds one task until the other has begun another.
      const found = all(tasks, () => waitFor(tasks[1]!.by));
      assert.deepEqual(found, [`${round} a`, `${round} b`, `${round} c`]);
      assert.equal(Atomics.load(tasks[1]!.by, 0), OTHER);
    }
    const [one] = [task('alone')];
    assert.deepEqual(all([one]), ['alone']);
    assert.equal(Atomics.load(one.by, 0), PRIMARY);
  });
});

test('a task waits for the one before it in its chain, whoever runs that', async () => {
  await withTeam(({ all }) => {
    const gate = word();
    const tasks = [task('a'), task('b', { gate }), task('c'), task('d')];
    const found = all(
      tasks,
      () => {
        waitFor(tasks[1]!.by);
        assert.equal(Atomics.load(tasks[3]!.by, 0), 0);
        open(gate);
      },
      2,
    );
    assert.deepEqual(found, ['a', 'b', 'c', 'd']);
  });
});

test('a task that fails in another thread fails the stage', async () => {
  await withTeam(({ all }) => {
    const tasks = [task('a'), task('b', { fails: true })];
    assert.throws(() => all(tasks, () => waitFor(tasks[1]!.by)), /^Error: b fails$/);
  });
});

test('a stage that fails leaves no task running: the others stop first', async () => {
  const gate = word();
  const tasks = [task('a', { fails: true }), task('b', { gate })];
  await withTeam(({ all, team }) => {
    assert.throws(() => all(tasks, () => waitFor(tasks[1]!.by)), RangeError);
    // The gate stays shut: only that it is told to stop ends the task.
    team.close();
  });
});

test('a stage that is cancelled while it waits for another thread is given up', async () => {
  let isOver = false;
  const gate = word();
  const tasks = [task('a'), task('b', { gate })];
  await withTeam(
    ({ all }) => {
      const run = () =>
        all(tasks, () => {
          waitFor(tasks[1]!.by);
          isOver = true;
        });
      run();
      assert.throws(() => all([task('c'), task('d')]), CancelledError);
    },
    () => isOver,
  );
});

test('what a lost thread has begun is waited for no more', async () => {
  const gate = word();
  const tasks = [task('a'), task('b', { gate })];
  await withTeam(({ all, words }) => {
    const first = () => {
      waitFor(tasks[1]!.by);
      lose(words);
    };
    assert.throws(() => all(tasks, first), CancelledError);
  });
});

test('a problem that a team shares has the same bits as on one worker', async () => {
  const problem = randomProblem({
    seed: 1,
    queryLength: 600,
    headDim: 128,
    heads: 1,
    inFeatures: 128,
  });
  const answers = [];
  for (const workers of [1, 2, 3]) {
    let most = 0;
    const pool = await WorkerPool.start({
      ...{ workers, warmUpMs: 120_000, rates: { exact: 1e9, lowRank: 1e9 } },
      onLoad: (changed) => {
        most = Math.max(most, changed.load().busy);
      },
    });
    try {
      const { signal } = new AbortController();
      const job = exactJob(problem, { attentionOutput: true });
      const { gradients, attentionOutput } = await pool.run(job, { signal });
      answers.push({ gradients, attentionOutput });
    } finally {
      await pool.close();
    }
    assert.equal(most, workers);
  }
  assert.deepEqual(answers[1], answers[0]);
  assert.deepEqual(answers[2], answers[0]);
});
