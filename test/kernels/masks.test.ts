/** Masks, soft caps and sinks in the exact kernel, against float64 and measured with plain float32. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../workers/job.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../workers/kernels/exact/run.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import {
  keyRanges,
  keysOfRow,
  type Mask,
  NO_MASK,
  packedSequences,
  rowsOfKeys,
  visiblePairs,
} from '../../workers/mask.js';
import { testSeed } from '../support/random.js';
import { naiveGradient } from './naive.js';
import { type ProblemOptions, randomProblem } from './problems.js';
import { distance, exact, named, norm, reference } from './run.js';

const wasm = loadWasm();
const FLOOR = 5e-7;
const SEED = testSeed(11);

const window = (left: number, right: number): Mask => ({ left, right });
const keys = (...ranges: [number, number][]) => ({
  keys: keyRanges(ranges.map(([first, last]) => ({ first, last }))),
});
/** L = 150: more than two blocks of rows, and keys in more than three tiles. */
const masks: Record<string, Mask> = {
  'a window behind': window(40, 0),
  'a window on both sides': window(3, 70),
  'the row itself': window(0, 0),
  'what comes, causal the other way': window(0, Infinity),
  'left padding': { ...NO_MASK, ...keys([30, 150], [0, 150]) },
  'left padding, causal: rows that see no key': {
    ...window(Infinity, 0),
    ...keys([90, 150], [1, 150]),
  },
  'padding on both sides, window': { ...window(20, 5), ...keys([11, 60], [0, 150]) },
  'an item that is all padding': { ...NO_MASK, ...keys([0, 0], [0, 150]) },
  packed: { ...NO_MASK, sequences: packedSequences([[1, 50, 130, 150]]) },
  'packed, causal, another way for each item': {
    ...window(Infinity, 0),
    sequences: packedSequences([
      [70, 150],
      [64, 128, 129, 150],
    ]),
  },
  'packed, window, padding': {
    ...window(9, 0),
    ...keys([0, 140], [3, 150]),
    sequences: packedSequences([[80, 150]]),
  },
};
const shape = { queryLength: 150, batch: 2, heads: 2, keyValueHeads: 1, bias: true } as const;
const problems: Record<string, Omit<ProblemOptions, 'seed'>> = {
  ...Object.fromEntries(Object.entries(masks).map(([name, mask]) => [name, { ...shape, mask }])),
  'soft cap': { ...shape, softcap: 2, spread: 4 },
  'soft cap above all logits': { ...shape, softcap: 1000, mask: masks['a window behind'] },
  sinks: { ...shape, sinks: true },
  'sinks where only values are adapted': { ...shape, sinks: true, ranks: { v: 3 } },
  'sinks alone': { ...shape, sinks: true, ranks: {} },
  'large logits, sinks, cap, rows that see no key': {
    ...{ ...shape, sinks: true, softcap: 60, spread: 3000, objective: 'target', rotary: true },
    mask: masks['left padding, causal: rows that see no key'],
  },
  'more rows than keys, window': { ...shape, keyLength: 70, mask: window(20, 30) },
  'more keys than rows, window': {
    ...shape,
    queryLength: 70,
    keyLength: 150,
    mask: window(20, 30),
  },
};

for (const [name, options] of Object.entries(problems)) {
  for (const inputGradients of [undefined, 'cross'] as const) {
    test(`${name}${inputGradients ? ', input gradients' : ''}: as good as plain float32`, () => {
      const problem = randomProblem({ ...options, seed: SEED });
      const truth = reference(problem, inputGradients);
      const got = exact(problem, wasm, true, inputGradients);
      const naive = naiveGradient(problem);
      const yardsticks = new Map(naive.gradients);
      for (const [key, name] of [
        ['query_states', 'q_proj'],
        ['key_states', 'k_proj'],
        ['value_states', 'v_proj'],
      ] as const) {
        yardsticks.set(key, naive.inputs[name]);
      }
      const all = named(got);
      for (const [tensor, value] of named(truth)) {
        const scale = norm(value) || 1;
        const error = distance(all.get(tensor)!, value) / scale;
        const plain = distance(yardsticks.get(tensor)!, value) / scale;
        assert.ok(
          error <= Math.max(3 * plain, FLOOR),
          `${tensor}: ${error}, plain ${plain}; seed ${SEED}`,
        );
      }
      const output = truth.attentionOutput!;
      assert.ok(distance(got.attentionOutput!, output) <= 1e-6 * norm(output));
    });
  }
}

test('rows that see no key have output 0 and leave all gradients as they are', () => {
  const mask: Mask = { ...NO_MASK, ...keys([0, 0]) };
  const problem = randomProblem({ queryLength: 70, mask, sinks: true, seed: SEED, bias: true });
  const got = exact(problem, wasm, true, 'cross');
  for (const [tensor, value] of [...named(got), ['output', got.attentionOutput!] as const]) {
    assert.ok(
      value.every((x) => x === 0),
      tensor,
    );
  }
});

test('the estimate of the rounding error knows masks, caps and sinks', () => {
  for (const name of [
    'packed, window, padding',
    'large logits, sinks, cap, rows that see no key',
    'sinks',
    'sinks alone',
  ]) {
    const problem = randomProblem({ ...problems[name]!, seed: SEED });
    const job = exactJob(problem, { attentionOutput: false, estimate: { rows: 2000, seed: SEED } });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    const truth = named(reference(problem));
    for (const [tensor, value] of named(got)) {
      const error = distance(value, truth.get(tensor)!) / norm(truth.get(tensor)!);
      const { relative, upper } = errors![tensor]!;
      assert.ok(error <= upper, `${name}, ${tensor}: ${error} above ${upper}; seed ${SEED}`);
      assert.ok(
        relative < 10 * error + FLOOR,
        `${name}, ${tensor}: ${relative} for ${error}; seed ${SEED}`,
      );
    }
  }
});

test('a row that alone makes the gradient of a sink is among those that tell its rounding error', () => {
  for (const seed of [13, 23, 27]) {
    const options = problems['large logits, sinks, cap, rows that see no key'];
    const problem = randomProblem({ ...options!, seed });
    const job = exactJob(problem, { attentionOutput: false, estimate: { rows: 40, seed } });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    const truth = named(reference(problem)).get('sinks')!;
    const error = distance(named(got).get('sinks')!, truth) / norm(truth);
    assert.ok(
      error <= errors!.sinks!.upper,
      `${error} above ${errors!.sinks!.upper}; seed ${seed}`,
    );
  }
});

test('the estimate of the rounding error knows that large logits change the slope of a cap', () => {
  let worst = 0;
  for (let seed = 11; seed < 20; seed++) {
    const problem = randomProblem({ queryLength: 150, softcap: 5, seed });
    const { data } = problem.projections.q_proj.weight!;
    for (let k = 0; k < data.length; k++) data[k]! *= 1e5;
    const job = exactJob(problem, { attentionOutput: false, estimate: { rows: 16, seed } });
    const { errors, ...got } = runJob(job, (task, stop) => runExactTask(task, wasm, stop));
    const truth = named(reference(problem));
    for (const [tensor, value] of named(got)) {
      const error = distance(value, truth.get(tensor)!) / norm(truth.get(tensor)!);
      const { upper } = errors![tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${seed}`);
      worst = Math.max(worst, error);
    }
  }
  assert.ok(worst > 1e-5, 'logits are rounded');
});

test('ranges of rows and ranges of keys say the same, and their pairs are counted', () => {
  for (const [name, mask] of Object.entries(masks)) {
    const layer = { mask, dims: { queryLength: 150, keyLength: 150 } };
    for (const item of [0, 1]) {
      const [from, to] = [new Int32Array(150), new Int32Array(150)];
      for (const [first, last] of [
        [0, 70],
        [70, 150],
      ] as const) {
        rowsOfKeys(layer, item, first, from.subarray(first, last), to.subarray(first, last));
      }
      let pairs = 0;
      for (let i = 0; i < 150; i++) {
        const seen = keysOfRow(layer, item, i);
        for (let j = 0; j < 150; j++) {
          const sees = j >= seen.first && j < seen.last;
          assert.equal(sees, i >= from[j]! && i < to[j]!, `${name}: ${i}, ${j}`);
          pairs += Number(sees);
        }
      }
      assert.equal(visiblePairs(layer, item), pairs, name);
    }
  }
});
