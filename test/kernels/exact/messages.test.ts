/** What is sent to threads does not grow with the square of a batch: 20,000 items of one row took half a minute, most of it messages. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Job } from '../../../workers/job.js';
import { forwardStages } from '../../../workers/kernels/exact/forward.js';
import { exactStages } from '../../../workers/kernels/exact/gradient.js';
import { type ExactTask, runExactTask } from '../../../workers/kernels/exact/run.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { packedSequences } from '../../../workers/mask.js';
import type { AttentionProblem } from '../../../workers/problem.js';
import { randomProblem } from '../problems.js';

const wasm = loadWasm();
const [FEW, MANY] = [1000, 2000];

/** Values of a message; typed arrays are shared. */
function valuesIn(x: unknown): number {
  if (typeof x !== 'object' || x === null || ArrayBuffer.isView(x)) return 1;
  return Object.values(x).reduce<number>((sum, value) => sum + valuesIn(value), 1);
}

function valuesSent<Result>(job: Job<Result, ExactTask>): number {
  let values = 0;
  let step = job.next([]);
  while (!step.done) {
    const results = step.value.tasks.map((task) => {
      values += valuesIn(task);
      return runExactTask(task, wasm, () => false);
    });
    step = job.next(results);
  }
  return values;
}

const problemOf = (batch: number): AttentionProblem => {
  const problem = randomProblem({
    ...{ batch, queryLength: 2, headDim: 4, inFeatures: 4, heads: 1, seed: 1 },
    keyLengths: Array.from({ length: batch }, (_, item) => 1 + (item % 2)),
  });
  const sequences = packedSequences(
    Array.from({ length: batch }, (_, item) => (item % 3 === 0 ? [1, 2] : [2])),
  );
  return { ...problem, mask: { ...problem.mask, sequences } };
};

const jobs: Record<string, (problem: AttentionProblem) => Job<unknown, ExactTask>> = {
  gradient: (problem) =>
    exactStages(problem, { attentionOutput: false }) as Job<unknown, ExactTask>,
  forward: (problem) => forwardStages(problem, 1) as Job<unknown, ExactTask>,
};

for (const [name, job] of Object.entries(jobs)) {
  test(`${name}: twice the batch, twice the messages`, () => {
    const [few, many] = [valuesSent(job(problemOf(FEW))), valuesSent(job(problemOf(MANY)))];
    assert.ok(many < 2.2 * few, `${few} values for ${FEW} items, ${many} for ${MANY}`);
  });
}
