/** Row blocks are dealt out to partitions, and are seldom a multiple of them: some tasks have none of a partition. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makePlan, makeWorkspace } from '../../../workers/kernels/attention/plan.js';
import { attendTasks } from '../../../workers/kernels/exact/tasks.js';
import { loadKernels, portableKernels } from '../../../workers/kernels/inner/builds.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { Lease } from '../../../workers/tensor/shared-memory.js';
import { testSeed } from '../../support/random.js';
import { randomProblem } from '../problems.js';
import { distance, exact, named, norm } from '../run.js';

test('a task that has no block of a partition adds nothing to its sums', () => {
  const seed = testSeed(1);
  const problem = randomProblem({ seed, queryLength: 4688, headDim: 256, inFeatures: 16 });
  const plan = makePlan(problem, { attentionOutput: false });
  const memory = new Lease();
  const { tasks } = attendTasks(plan, makeWorkspace(plan, memory), null, 0);
  memory.end();
  const isEmpty = ({ first, partitions }: (typeof tasks)[number]) =>
    partitions.some(({ partition }) => partition + first * plan.partitions > plan.blocks);
  assert.ok(tasks.some(isEmpty), 'every task has a block of each of its partitions');
  const portable = named(exact(problem, loadKernels(portableKernels())));
  for (const [name, gradient] of named(exact(problem, loadWasm()))) {
    const other = portable.get(name)!;
    const off = distance(gradient, other) / norm(other);
    assert.ok(off < 1e-5, `${name}: ${off}; seed ${seed}`);
  }
});
