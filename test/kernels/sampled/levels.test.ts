/** Drawn keys of long inputs, where blocks draw among candidates. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testSeed } from '../../support/random.js';
import { randomStates } from '../problems.js';
import { distance, named, norm } from '../run.js';
import { outOfOrder, planned, sampledBy, truth } from './support.js';

const SEED = testSeed(5);
const DRAWS = 6;

/** Each row of the second head wants a key of its own that no row beside it wants. */
function makeProblem() {
  const [length, heads, headDim] = [12800, 2, 16];
  const problem = randomStates({
    ...{ queryLength: length, heads, headDim, spread: 2, seed: SEED },
    mask: { left: 6000, right: 0 },
  });
  const { query, key } = problem.inputs;
  for (let i = 0; i < length; i++) {
    const wanted = i - ((i * 7919) % Math.min(i + 1, 6000));
    for (let c = headDim; c < 2 * headDim; c++) {
      query.data[i * heads * headDim + c]! += 0.5 * key.data[wanted * heads * headDim + c]!;
    }
  }
  return problem;
}

test('two levels: limits hold, draws are unbiased, and no thread changes them', () => {
  const problem = makeProblem();
  const { plan } = planned(problem, 150, SEED);
  assert.ok(plan.heads.every(({ levels }) => levels === 2));
  const exactly = truth(problem);
  const draws = Array.from({ length: DRAWS }, (_, k) => sampledBy(problem, plan, SEED + k));
  for (const [tensor, x] of exactly) {
    const single: number[] = [];
    for (const { errors, ...draw } of draws) {
      const got = named(draw).get(tensor)!;
      const error = distance(x, got) / norm(got);
      const { upper, standard_error } = errors[tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}`);
      assert.ok(error > standard_error / 10, `${tensor}: ${error}; seed ${SEED}`);
      single.push(distance(x, got));
    }
    const mean = x.map((_, k) => {
      return draws.reduce((sum, draw) => sum + named(draw).get(tensor)![k]!, 0) / DRAWS;
    });
    const typical = Math.sqrt(single.reduce((sum, e) => sum + e * e, 0) / DRAWS);
    assert.ok(distance(x, mean) < 0.6 * typical, `${tensor}; seed ${SEED}`);
  }
  for (const [tensor, x] of named(outOfOrder(problem, plan, SEED))) {
    assert.deepEqual(x, named(draws[0]!).get(tensor), tensor);
  }
});
