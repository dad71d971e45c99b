/** A problem that is cut into problems has the gradients and the error bars of the whole. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../workers/job.js';
import { rowsForEstimate } from '../../workers/kernels/exact/error/row-samples.js';
import { forwardParts } from '../../workers/kernels/exact/forward.js';
import { cutsOf, type ExactOptions, exactParts } from '../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../workers/kernels/exact/run.js';
import { loadWasm } from '../../workers/kernels/inner/load.js';
import type { Cut } from '../../workers/kernels/parts/cut.js';
import { referenceForwardParts, referenceParts } from '../../workers/kernels/reference/parts.js';
import { keyRanges, NO_MASK, packedSequences, visiblePairs } from '../../workers/mask.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { runTask } from '../../workers/tasks/run.js';
import { assertLimits } from '../support/confidence.js';
import { testSeed } from '../support/random.js';
import { everyCut } from './cuts.js';
import { type ProblemOptions, randomProblem, randomStates, tensor } from './problems.js';
import { distance, exact, named, norm, reference } from './run.js';

const wasm = loadWasm();
const seed = testSeed();

function inParts(problem: AttentionProblem, cuts: readonly Cut[], options: ExactOptions) {
  return runJob(exactParts(problem, options, cuts), (task, cancelled) =>
    runExactTask(task, wasm, cancelled),
  );
}

const GROUPED = { batch: 3, heads: 4, keyValueHeads: 2 };
const CASES: Record<string, Omit<ProblemOptions, 'seed'>> = {
  plain: { ...GROUPED, queryLength: 61, bias: true },
  causal: { ...GROUPED, queryLength: 75, causal: true, objective: 'target' },
  'cross-attention with padding': {
    ...GROUPED,
    queryLength: 40,
    keyLength: 57,
    keyLengths: [57, 9, 30],
  },
  'sliding window and sinks': {
    ...{ ...GROUPED, queryLength: 80, sinks: true, softcap: 5 },
    mask: { left: 11, right: 2 },
  },
  'packed sequences, padding on the left': {
    ...{ ...GROUPED, queryLength: 90, spread: 3 },
    mask: {
      ...{ left: Number.POSITIVE_INFINITY, right: 0, sequences: packedSequences([[20, 55, 90]]) },
      keys: keyRanges([4, 0, 31].map((first) => ({ first, last: 90 }))),
    },
  },
  'rotary positions': { ...GROUPED, queryLength: 50, rotary: true, causal: true },
};

for (const [name, options] of Object.entries(CASES)) {
  for (const inputGradients of [undefined, 'self', 'attention'] as const) {
    const states = inputGradients === 'attention';
    if (states && (options.rotary || options.bias)) continue;
    if (inputGradients === 'self' && options.keyLength) continue;
    test(`${name}, ${inputGradients ?? 'adapters alone'}: parts have the gradients of the whole`, () => {
      const problem = (states ? randomStates : randomProblem)({ ...options, seed });
      const outputs = { attentionOutput: true, inputGradients };
      const truth = reference(problem, inputGradients);
      const whole = exact(problem, wasm, true, inputGradients);
      for (const cuts of everyCut(problem, inputGradients !== undefined)) {
        const result = inParts(problem, cuts, {
          ...outputs,
          estimate: { rows: rowsForEstimate(problem), seed },
        });
        const tensors = named(result);
        tensors.set('attention_output', result.attentionOutput!);
        const expected = named(truth);
        expected.set('attention_output', truth.attentionOutput!);
        assert.deepEqual([...tensors.keys()], [...expected.keys()]);
        for (const [tensorName, x] of tensors) {
          const exactX = expected.get(tensorName)!;
          const wholeX = named(whole).get(tensorName) ?? whole.attentionOutput!;
          const limit = 3 * distance(wholeX, exactX) + 1e-6 * norm(exactX);
          assert.ok(distance(x, exactX) <= limit, `${tensorName}, ${cuts.length} parts`);
        }
        for (const [tensorName, { upper, relative }] of Object.entries(result.errors!)) {
          assert.ok(upper >= relative && upper < 1e-3, `${tensorName}: ${upper}`);
        }
        if (truth.loss !== null) {
          assert.ok(Math.abs(result.loss! - truth.loss) <= 1e-5 * truth.loss);
        }
        // Keys that no row sees may be in no part.
        const seen = problem.mask.keys?.every((at, k) => k % 2 === 1 || at === 0) ?? true;
        if (seen) assert.deepEqual(result.headNorms, whole.headNorms);
      }
    });
  }
}

test('the upper limits of problems in parts hold for at least 98 of 100 tensors', () => {
  let [held, total] = [0, 0];
  const problems = Object.values(CASES).flatMap((options) =>
    Array.from({ length: 4 }, (_, k) => randomProblem({ ...options, spread: 8, seed: seed + k })),
  );
  for (const problem of problems) {
    const truth = named(reference(problem));
    for (const cuts of everyCut(problem, false)) {
      const estimate = { rows: rowsForEstimate(problem), seed };
      const result = inParts(problem, cuts, { attentionOutput: false, estimate });
      for (const [name, x] of named(result)) {
        const exactX = truth.get(name)!;
        total++;
        if (distance(x, exactX) <= result.errors![name]!.upper * norm(exactX)) held++;
      }
    }
  }
  assert.ok(total > 200);
  assert.ok(held >= 0.98 * total, `${held} of ${total}`);
});

for (const [name, options] of Object.entries(CASES)) {
  test(`${name}: parts in float64, and of the output alone, are those of the whole`, () => {
    const problem = randomProblem({ ...options, seed });
    const outputs = { attentionOutput: true };
    const truth = reference(problem);
    const ratios: number[] = [];
    for (const cuts of everyCut(problem, false)) {
      const job = referenceParts(problem, outputs, cuts);
      const result = runJob(job, (task, cancelled) => runTask(task, wasm, cancelled));
      for (const [tensorName, x] of named(result)) {
        const whole = named(truth).get(tensorName)!;
        assert.ok(distance(x, whole) <= 1e-12 * norm(whole), tensorName);
      }
      const same = (x: Float64Array | Float32Array) =>
        distance(x, truth.attentionOutput!) <= 1e-12 * norm(truth.attentionOutput!);
      assert.ok(same(result.attentionOutput!));
      assert.ok(Math.abs((result.loss ?? 0) - (truth.loss ?? 0)) <= 1e-12 * (truth.loss ?? 0));
      const output = runJob(referenceForwardParts(problem, cuts), (task, cancelled) =>
        runTask(task, wasm, cancelled),
      );
      assert.ok(same(output.attentionOutput));
      const { attentionOutput, error } = runJob(forwardParts(problem, seed, cuts), (task, stop) =>
        runTask(task, wasm, stop),
      );
      const off = distance(attentionOutput, truth.attentionOutput!);
      ratios.push(off / (error.upper * norm(truth.attentionOutput!)));
      assert.ok(error.upper < 1e-4);
    }
    assertLimits(ratios, `seed ${seed}`);
  });
}

test('a client that is wrong about a row is told which, wherever the row is computed', () => {
  const plain = randomStates({ ...GROUPED, queryLength: 20, objective: 'target', seed });
  const { dims } = plain;
  const output = reference(plain).attentionOutput!;
  const at = (item: number, row: number, head: number) =>
    ((item * dims.queryLength + row) * dims.heads + head) * dims.valueDim;
  const wrong = tensor(
    [dims.batch, dims.queryLength, dims.heads, dims.valueDim],
    'float32',
    (k) => {
      return output[k]! + (k >= at(2, 7, 3) && k < at(2, 7, 4) ? 1 : 0);
    },
  );
  const problem: AttentionProblem = { ...plain, known: { output: wrong } };
  for (const cuts of everyCut(problem, true)) {
    const { contradiction } = inParts(problem, cuts, {
      attentionOutput: false,
      inputGradients: 'attention',
    });
    assert.deepEqual(contradiction, { name: 'attention_output', batchItem: 2, head: 3, row: 7 });
  }
});

test('small problems are not cut; large ones by items, then heads, then rows, each pair in one part', () => {
  const of = (dims: Partial<AttentionProblem['dims']>, mask = NO_MASK) => {
    const problem = randomProblem({ seed, queryLength: 8 });
    return { ...problem, mask, dims: { ...problem.dims, ...dims } } as AttentionProblem;
  };
  const gradients = { attentionOutput: false };
  assert.equal(cutsOf(of({}), gradients).length, 1);
  const large = { queryLength: 32_768, keyLength: 32_768 };
  for (const [dims, items, heads] of [
    [{ ...large, batch: 64 }, 32, 1],
    [{ ...large, batch: 2, heads: 32, keyValueHeads: 8 }, 2, 8],
  ] as const) {
    const cuts = cutsOf(of(dims), gradients);
    const count = (of: (cut: Cut) => unknown) =>
      new Set(cuts.map((cut) => JSON.stringify(of(cut)))).size;
    assert.equal(
      count(({ items }) => items),
      items,
    );
    assert.equal(
      count(({ sharedHeads }) => sharedHeads),
      heads,
    );
  }
  const causal = of({ queryLength: 131_072, keyLength: 131_072 }, { ...NO_MASK, right: 0 });
  const rows = cutsOf(causal, gradients).map((cut) => cut.rows);
  assert.ok(rows.length > 8);
  assert.equal(rows.at(-1)!.last, 131_072);
  const pairs = rows.map(({ first, last }, k) => {
    assert.equal(first, k === 0 ? 0 : rows[k - 1]!.last);
    const dims = { ...causal.dims, queryLength: last - first };
    return visiblePairs({ dims, mask: { ...causal.mask, offset: first } }, 0);
  });
  assert.equal(
    pairs.reduce((a, b) => a + b),
    visiblePairs(causal, 0),
  );
  assert.ok(Math.max(...pairs) < 1.1 * Math.min(...pairs));
});
