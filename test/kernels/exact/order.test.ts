/** The same bits for any number of threads, any order of tasks, and any number of runs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CancelledError, runJob, type Stage } from '../../../workers/job.js';
import {
  type ExactOptions,
  type ExactResult,
  exactJob,
} from '../../../workers/kernels/exact/gradient.js';
import { type ExactTask, runExactTask } from '../../../workers/kernels/exact/run.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import type { AttentionProblem } from '../../../workers/problem.js';
import { testSeed, uniform } from '../../support/random.js';
import { KERNELS } from '../builds.js';
import { randomProblem } from '../problems.js';
import { exactOnMany, named } from '../run.js';

const inOrder = (n: number) => Array.from({ length: n }, (_, k) => k);
const reversed = (n: number) => inOrder(n).reverse();
const shuffled = (seed: number) => {
  const next = uniform(seed);
  return (n: number) =>
    inOrder(n)
      .map((index) => ({ index, key: next() }))
      .sort((a, b) => a.key - b.key)
      .map(({ index }) => index);
};

function assertSame(a: ExactResult, b: ExactResult, what: string): void {
  for (const [name, gradient] of named(a)) {
    assert.deepEqual(gradient, named(b).get(name), `${name}, ${what}`);
  }
  assert.deepEqual(a.attentionOutput, b.attentionOutput, what);
  assert.deepEqual(a.headNorms, b.headNorms, what);
  assert.equal(a.loss, b.loss, what);
  assert.deepEqual(a.errors, b.errors, what);
}

type Outputs = Omit<ExactOptions, 'attentionOutput'>;
const everything: Outputs = { inputGradients: 'self', estimate: { rows: 8, seed: 3 } };

const problems = {
  'one long head': randomProblem({ seed: 1, queryLength: 2500, headDim: 8, objective: 'target' }),
  'many heads, causal': randomProblem({
    ...{ seed: 2, queryLength: 300, batch: 3, heads: 8, keyValueHeads: 4, causal: true },
  }),
};

const layers: Record<string, readonly [AttentionProblem, Outputs]> = {
  'one long head': [problems['one long head'], {}],
  'many heads, causal': [problems['many heads, causal'], {}],
  'input gradients, one long head': [problems['one long head'], everything],
  'rotary positions, padding, input gradients': [
    randomProblem({
      ...{ seed: 4, queryLength: 260, batch: 2, heads: 6, keyValueHeads: 2, causal: true },
      ...{ rotary: true, keyLengths: [260, 131] },
    }),
    everything,
  ],
  'rotary positions, adapters alone': [
    randomProblem({ seed: 5, queryLength: 700, rotary: true, ranks: { q: 4, v: 4 } }),
    { estimate: { rows: 8, seed: 3 } },
  ],
};

for (const [name, [problem, outputs]] of Object.entries(layers)) {
  test(`bitwise the same on 1, 2, 3 and 8 threads: ${name}`, () => {
    const seed = testSeed();
    for (const kernels of KERNELS) {
      const instances = inOrder(8).map(() => loadWasm(kernels));
      const expected = exactOnMany(problem, instances.slice(0, 1), inOrder, outputs);
      for (const [count, order] of [
        [1, reversed],
        [2, shuffled(seed)],
        [3, inOrder],
        [8, shuffled(seed + 1)],
      ] as const) {
        const answer = exactOnMany(problem, instances.slice(0, count), order, outputs);
        assertSame(expected, answer, `${kernels.build}, ${count} threads`);
      }
    }
  });
}

test('bitwise the same in one task and in many', () => {
  const instance = loadWasm();
  const small: readonly [AttentionProblem, Outputs][] = [
    [randomProblem({ seed: 6, queryLength: 9, ranks: { q: 2, v: 3 } }), everything],
    [randomProblem({ seed: 7, queryLength: 130, heads: 2, objective: 'target' }), {}],
    [
      randomProblem({ seed: 8, queryLength: 70, batch: 2, rotary: true, causal: true }),
      { estimate: { rows: 8, seed: 3 } },
    ],
  ];
  for (const [problem, outputs] of small) {
    const job = exactJob(problem, { attentionOutput: true, ...outputs });
    const whole = job.next([]).value as Stage;
    assert.equal(whole.tasks.length, 1);
    const [task] = structuredClone(whole.tasks) as ExactTask[];
    const result = runExactTask(task!, instance, () => false) as ExactResult;
    assertSame(exactOnMany(problem, [loadWasm(), loadWasm()], inOrder, outputs), result, 'whole');
  }
});

test('a cancelled job stops, and its thread goes on', () => {
  const wasm = loadWasm();
  const problem = problems['one long head'];
  let polls = 0;
  const cancelled = () => ++polls > 20;
  assert.throws(
    () =>
      runJob(
        exactJob(problem, { attentionOutput: true }),
        (t, c) => runExactTask(t, wasm, c),
        cancelled,
      ),
    CancelledError,
  );
  const fresh = exactOnMany(problem, [loadWasm()], inOrder);
  assertSame(fresh, exactOnMany(problem, [wasm], inOrder), 'after cancellation');
});
