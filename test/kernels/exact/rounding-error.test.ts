/** The error figures of an exact answer, against errors that are known. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import {
  type AttendedRows,
  contributionsOf,
} from '../../../workers/kernels/estimate/contributions.js';
import { addDraws, makeErrorSums } from '../../../workers/kernels/estimate/estimate.js';
import { exactRows } from '../../../workers/kernels/estimate/exact-rows.js';
import { InputPasses } from '../../../workers/kernels/estimate/input-passes.js';
import { RotatedKeyRows } from '../../../workers/kernels/estimate/rotated-keys.js';
import { keyInputs, type RowOfHead } from '../../../workers/kernels/estimate/row-of-head.js';
import { sampleRows } from '../../../workers/kernels/estimate/rows.js';
import { rowsForEstimate } from '../../../workers/kernels/exact/error/row-samples.js';
import { exactForwardJob } from '../../../workers/kernels/exact/forward.js';
import { exactJob } from '../../../workers/kernels/exact/gradient.js';
import { runExactTask } from '../../../workers/kernels/exact/run.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { slice } from '../../../workers/kernels/inner/operands.js';
import { referenceForwardJob } from '../../../workers/kernels/reference/forward.js';
import { runReferenceTask } from '../../../workers/kernels/reference/operations.js';
import type { AttentionProblem, Rotary } from '../../../workers/problem.js';
import { assertLimits } from '../../support/confidence.js';
import { testSeed, uniform } from '../../support/random.js';
import { assertNorms } from '../norms.js';
import { type ProblemOptions, randomProblem } from '../problems.js';
import { distance, named, norm, reference } from '../run.js';
import { makeStructured, STRUCTURE_NAMES } from '../structures.js';

const wasm = loadWasm();

type Totals = ReadonlyMap<string, Float64Array>;

/** Adds what `rows`, all of one batch item, contribute to each gradient. */
function addContributions(
  totals: Totals,
  problem: AttentionProblem,
  rows: readonly RowOfHead[],
  passes: InputPasses,
): void {
  const attended = exactRows(problem, rows, passes);
  for (const [name, { u, v, offsets }] of contributionsOf(problem, attended, passes)) {
    const total = totals.get(name)!;
    const [a, b] = [u.length / rows.length, v.length / rows.length];
    offsets.forEach((offset, k) => {
      for (let i = 0; i < a; i++) {
        for (let c = 0; c < b; c++) total[offset + i * b + c]! += u[k * a + i]! * v[k * b + c]!;
      }
    });
  }
  if (problem.rotary) addRotatedKeys(totals, problem, attended, passes);
}

/** Those of the keys under rotary positions. */
function addRotatedKeys(
  totals: Totals,
  problem: AttentionProblem,
  { rows, q, dS }: AttendedRows,
  passes: InputPasses,
): void {
  const layer = problem as AttentionProblem & { rotary: Rotary };
  const { keys: n, XK } = keyInputs(problem, rows[0].batchItem);
  const d = problem.dims.headDim;
  rows.forEach(({ batchItem, shared }, k) => {
    const keys = new RotatedKeyRows(layer, batchItem, shared, XK, passes);
    const { A, B } = keys.of({ q: slice(q, k, d), dS: slice(dS, k, n) });
    for (const [c, x] of A.entries()) totals.get('k_proj.lora_A')![c] += x;
    for (const [c, x] of B.entries()) totals.get('k_proj.lora_B')![keys.offset + c] += x;
  });
}

test('the float64 contributions of all rows add up to the gradients', () => {
  for (const options of [
    { batch: 2, heads: 4, keyValueHeads: 2, bias: true, objective: 'target' as const },
    { keyLength: 37, causal: true, valueDim: 9 },
    { batch: 2, keyLength: 37, keyLengths: [30, 5], bias: true },
    { heads: 4, keyValueHeads: 2, bias: true, rotary: true, causal: true, keyLengths: [17] },
  ]) {
    const problem = randomProblem({ seed: 11, queryLength: 21, dtype: 'float64', ...options });
    const { batch, heads, keyValueHeads, queryLength } = problem.dims;
    const expected = named(reference(problem));
    const totals = new Map([...expected].map(([name, x]) => [name, new Float64Array(x.length)]));
    for (let batchItem = 0; batchItem < batch; batchItem++) {
      const rows = Array.from({ length: heads * queryLength }, (_, k) => {
        const head = Math.floor(k / queryLength);
        const shared = Math.floor((head * keyValueHeads) / heads);
        return { batchItem, head, shared, row: k % queryLength };
      });
      wasm.reset();
      addContributions(totals, problem, rows, new InputPasses(wasm, () => {}));
    }
    for (const [name, total] of totals) {
      assert.ok(distance(total, expected.get(name)!) <= 1e-12 * norm(total), name);
    }
  }
});

test('draws are booked as the differences of their matrices, however little is left of them', () => {
  const random = uniform(testSeed());
  const [m, a, b, draws] = [5, 3, 7, 9];
  const offsets = [0, a * b, 0, 0, a * b];
  const numbers = (n: number) => Float64Array.from({ length: n }, () => random() - 0.5);
  const drawn = offsets.map(() => ({ probability: 0.1 + random() }));
  for (const off of [1, 2 ** -26]) {
    const exact = { u: numbers(m * a), v: numbers(m * b), offsets };
    const [du, dv] = [numbers(m * a), numbers(m * b)];
    const used = {
      u: exact.u.map((x, k) => x - off * du[k]),
      v: exact.v.map((x, k) => x - off * dv[k]),
      offsets,
    };
    const { sums } = makeErrorSums([['sums', 2 * a * b]]);
    wasm.reset();
    const rows = offsets.map((_, k) => k);
    addDraws(sums, rows, drawn, exact, used, draws, new InputPasses(wasm, () => {}));
    const error = new Float64Array(2 * a * b);
    let variance = 0;
    offsets.forEach((offset, k) => {
      for (let i = 0; i < a; i++) {
        for (let c = 0; c < b; c++) {
          // u v - (u - off du) (v - off dv)
          const [x, y] = [du[k * a + i], dv[k * b + c]];
          const delta = off * (x * exact.v[k * b + c] + y * exact.u[k * a + i] - off * x * y);
          error[offset + i * b + c] += delta / drawn[k].probability / draws;
          variance += (delta / drawn[k].probability) ** 2 / (draws * (draws - 1));
        }
      }
    });
    assert.ok(distance(sums.error, error) <= 1e-6 * norm(error));
    assert.ok(Math.abs(sums.totals[0] - variance) <= 1e-6 * variance);
    assert.equal(sums.totals[1], m);
  }
});

test('rows are drawn with the probabilities that they state', () => {
  const weights = Float64Array.from([0, 1, 2, 7]);
  const counts = [0, 0, 0, 0];
  const draws = sampleRows([weights], weights.length, 40000, 5);
  for (const { index } of draws) counts[index]!++;
  for (const { index, probability } of draws.slice(0, 50)) {
    assert.ok(Math.abs(counts[index]! / 40000 - probability) < 0.01);
  }
});

test('the upper limit holds for at least 98 of 100 tensors', () => {
  const seed = testSeed();
  const variants: Omit<ProblemOptions, 'seed'>[] = [
    { queryLength: 150 },
    { queryLength: 400, headDim: 32, objective: 'target' },
    { queryLength: 130, causal: true, heads: 4, keyValueHeads: 2, spread: 4 },
    { queryLength: 90, keyLength: 300, batch: 2, bias: true, dtype: 'float64', spread: 10 },
    { queryLength: 180, rotary: true, heads: 4, keyValueHeads: 2, causal: true, spread: 4 },
    { queryLength: 200, rotary: true, bias: true, keyLengths: [150], objective: 'target' },
  ];
  let [held, total] = [0, 0];
  for (let round = 0; round < 32; round++) {
    const problem = randomProblem({ seed: seed + round, ...variants[round % variants.length] });
    const estimate = { rows: rowsForEstimate(problem), seed };
    const job = exactJob(problem, { attentionOutput: false, estimate });
    const answer = runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
    const truth = named(reference(problem));
    for (const [name, gradient] of named(answer)) {
      const relative = distance(gradient, truth.get(name)!) / norm(truth.get(name)!);
      const { upper, rows_sampled } = answer.errors![name]!;
      assert.ok(rows_sampled >= 8 && upper < 1e-3, `${name}: ${upper} from ${rows_sampled} rows`);
      total++;
      if (relative <= upper) held++;
    }
  }
  assert.ok(held >= 0.98 * total, `${held} of ${total}`);
});

test('the limits of input gradients hold: self-attention, cross-attention, rotary positions', () => {
  const seed = testSeed();
  const variants: Omit<ProblemOptions, 'seed'>[] = [
    { queryLength: 150, bias: true },
    { queryLength: 90, keyLength: 200, batch: 2, dtype: 'float64', spread: 10 },
    { queryLength: 130, causal: true, heads: 4, keyValueHeads: 2, spread: 4 },
    { queryLength: 120, rotary: true, heads: 4, keyValueHeads: 2, causal: true },
  ];
  let checked = 0;
  for (let round = 0; round < 16; round++) {
    const problem = randomProblem({ seed: seed + round, ...variants[round % variants.length] });
    const inputGradients = round % variants.length === 1 ? 'cross' : 'self';
    const estimate = { rows: rowsForEstimate(problem), seed };
    const job = exactJob(problem, { attentionOutput: false, inputGradients, estimate });
    const answer = runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
    const truth = reference(problem, inputGradients).inputGradients!;
    for (const [name, expected] of Object.entries(truth)) {
      const found = answer.inputGradients![name as keyof typeof truth]!;
      const relative = distance(found, expected) / norm(expected);
      const { upper } = answer.errors![name]!;
      assert.ok(relative <= upper && upper < 1e-3, `${name}: ${relative}, stated ${upper}`);
      checked++;
    }
  }
  assert.ok(checked >= 16);
});

test('forward: the upper limit holds with 99 % confidence', () => {
  const seed = testSeed();
  const variants: Omit<ProblemOptions, 'seed'>[] = [
    { queryLength: 150 },
    { queryLength: 400, headDim: 32, keyLengths: [333] },
    { queryLength: 130, causal: true, heads: 4, keyValueHeads: 2, spread: 4 },
    { queryLength: 90, keyLength: 300, batch: 2, bias: true, dtype: 'float64', spread: 10 },
    { queryLength: 180, rotary: true, heads: 8, causal: true, spread: 4 },
    { queryLength: 20, headDim: 4, inFeatures: 6, rotary: true, bias: true },
  ];
  const ratios: number[] = [];
  const rounds = 120;
  for (let round = 0; round < rounds; round++) {
    const problem = randomProblem({ seed: seed + round, ...variants[round % variants.length] });
    const job = exactForwardJob(problem, { seed });
    const { error, ...answer } = runJob(job, (task, c) => runExactTask(task, wasm, c));
    const truth = runJob(referenceForwardJob(problem), runReferenceTask);
    const { attentionOutput: expected } = truth;
    const relative = distance(answer.attentionOutput, expected) / norm(expected);
    assert.ok(error.rows_sampled >= 20 && error.upper < 1e-4, `${error.upper}`);
    ratios.push(relative / error.upper);
    assertNorms(answer.headNorms, truth.headNorms, `seed ${seed + round}`);
  }
  assertLimits(ratios, `seed ${seed}`);
});

test('forward: a long row that no draw has seen is in the limit', () => {
  const seed = testSeed();
  const [rows, inFeatures] = [400, 16];
  for (let round = 0; round < 40; round++) {
    const problem = randomProblem({
      ...{ queryLength: rows, inFeatures, heads: 2, headDim: 16, spread: 10, seed: seed + round },
    });
    const { data } = problem.inputs.query;
    for (let c = 0; c < inFeatures; c++) data[(round * 10 + 1) * inFeatures + c]! *= 100;
    const job = exactForwardJob(problem, { seed });
    const { error, ...answer } = runJob(job, (task, c) => runExactTask(task, wasm, c));
    const truth = runJob(referenceForwardJob(problem), runReferenceTask).attentionOutput;
    const relative = distance(answer.attentionOutput, truth) / norm(truth);
    assert.ok(relative <= error.upper, `${relative} above ${error.upper}; seed ${seed + round}`);
  }
});

test('a gradient that vanishes has no error', () => {
  const problem = randomProblem({ seed: 6, queryLength: 100 });
  for (const { adapter } of Object.values(problem.projections)) adapter?.B.data.fill(0);
  const job = exactJob(problem, { attentionOutput: false, estimate: { rows: 8, seed: 1 } });
  const { errors } = runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
  assert.equal(errors!['q_proj.lora_A']!.upper, 0);
  assert.ok(errors!['q_proj.lora_B']!.upper > 0);
});

test('where the softmax is saturated the few rows that make a gradient are in its limit, drawn or not', () => {
  const seed = 461491507;
  const problem = makeStructured(
    {
      ...{ seed: seed + STRUCTURE_NAMES.indexOf('saturated softmax'), deviation: 0.3 },
      ...{ queryLength: 640, keyLength: 200, d: 8 },
    },
    'saturated softmax',
  );
  const ratios = ratiosOf(problem, 1, seed);
  assert.ok(Math.max(...ratios) <= 1, `${Math.max(...ratios)} times the limit`);
});

/** True errors over limits, of all gradients, for some draws of rows. */
function ratiosOf(problem: AttentionProblem, draws: number, seed: number): number[] {
  const truth = named(reference(problem));
  return Array.from({ length: draws }, (_, k) => {
    const estimate = { rows: rowsForEstimate(problem), seed: seed + k };
    const job = exactJob(problem, { attentionOutput: false, estimate });
    const answer = runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
    const { errors, ...got } = answer;
    return [...named(got)].map(([name, gradient]) => {
      const error = distance(gradient, truth.get(name)!) / norm(truth.get(name)!);
      return error / errors![name]!.upper;
    });
  }).flat();
}

test('terms that are alike round alike: a pooled loss over rows that are the same', () => {
  for (const [queryLength, seed] of [
    [848, 2],
    [848, 6],
    [1024, 4],
    [2048, 3],
  ] as const) {
    const size = { queryLength, headDim: 8, inFeatures: 8, ranks: { v: 1 }, spread: 0.02 };
    const problem = randomProblem({ seed, ...size });
    for (const x of [problem.inputs.query.data, problem.objective.tensor.data]) {
      const first = x.slice(0, x.length / queryLength);
      for (let i = 0; i < queryLength; i++) x.set(first, i * first.length);
    }
    const ratios = ratiosOf(problem, 2, 1);
    assert.ok(Math.max(...ratios) <= 1, `seed ${seed}: ${Math.max(...ratios)} times the limit`);
  }
});

test('a long row that is nearly saturated is surely drawn, by what cancels in it', () => {
  for (const [times, seed] of [
    [10, 166],
    [8, 157],
    [10, 68],
    [10, 32],
  ] as const) {
    const size = { queryLength: 66, headDim: 16, inFeatures: 32, ranks: { q: 1 }, spread: 0.05 };
    const problem = randomProblem({ seed, ...size });
    const x = slice(problem.inputs.query.data, 9, 32);
    for (let c = 0; c < x.length; c++) x[c]! *= times;
    const ratios = ratiosOf(problem, 8, 1);
    assert.ok(Math.max(...ratios) <= 1, `seed ${seed}: ${Math.max(...ratios)} times the limit`);
  }
});
