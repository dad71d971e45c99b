/** The error figures of an exact answer, against errors that are known. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exactJob, rowsForEstimate, runExactTask } from '../../workers/kernels/exact/gradient.js';
import { runJob } from '../../workers/kernels/job.js';
import { exactContributions } from '../../workers/kernels/sampling/exact-rows.js';
import { InputPasses } from '../../workers/kernels/sampling/input-passes.js';
import { sampleRows } from '../../workers/kernels/sampling/rows.js';
import { loadWasm } from '../../workers/kernels/wasm/load.js';
import { type ProblemOptions, randomProblem } from './problems.js';
import { distance, named, norm, reference } from './run.js';

const wasm = loadWasm();

test('the float64 contributions of all rows add up to the gradients', () => {
  for (const options of [
    { batch: 2, heads: 4, keyValueHeads: 2, bias: true, objective: 'target' as const },
    { keyLength: 37, causal: true, valueDim: 9 },
  ]) {
    const problem = randomProblem({ seed: 11, queryLength: 21, dtype: 'float64', ...options });
    const { batch, heads, queryLength } = problem.dims;
    const expected = named(reference(problem));
    const totals = new Map([...expected].map(([name, x]) => [name, new Float64Array(x.length)]));
    for (let batchItem = 0; batchItem < batch; batchItem++) {
      const rows = Array.from({ length: heads * queryLength }, (_, k) => ({
        ...{ batchItem, head: Math.floor(k / queryLength), row: k % queryLength },
      }));
      wasm.reset();
      for (const row of exactContributions(problem, rows, new InputPasses(wasm, 24, () => {}))) {
        for (const [name, { u, v, offset }] of row) {
          const total = totals.get(name)!;
          u.forEach((a, i) => {
            for (let c = 0; c < v.length; c++) total[offset + i * v.length + c]! += a * v[c]!;
          });
        }
      }
    }
    for (const [name, total] of totals) {
      assert.ok(distance(total, expected.get(name)!) <= 1e-12 * norm(total), name);
    }
  }
});

test('rows are drawn with the probabilities that they state', () => {
  const weights = Float64Array.from([0, 1, 2, 7]);
  const counts = [0, 0, 0, 0];
  const draws = sampleRows(weights, 40000, 5);
  for (const { index } of draws) counts[index]!++;
  for (const { index, probability } of draws.slice(0, 50)) {
    assert.ok(Math.abs(counts[index]! / 40000 - probability) < 0.01);
  }
});

test('the upper limit holds for at least 98 of 100 tensors', (t) => {
  const seed = Date.now() % 2 ** 31;
  t.diagnostic(`seed ${seed}`);
  const variants: Omit<ProblemOptions, 'seed'>[] = [
    { queryLength: 150 },
    { queryLength: 400, headDim: 32, objective: 'target' },
    { queryLength: 130, causal: true, heads: 4, keyValueHeads: 2, spread: 4 },
    { queryLength: 90, keyLength: 300, batch: 2, bias: true, dtype: 'float64', spread: 10 },
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

test('a gradient that vanishes has no error', () => {
  const problem = randomProblem({ seed: 6, queryLength: 100 });
  for (const { adapter } of Object.values(problem.projections)) adapter?.B.data.fill(0);
  const job = exactJob(problem, { attentionOutput: false, estimate: { rows: 8, seed: 1 } });
  const { errors } = runJob(job, (task, cancelled) => runExactTask(task, wasm, cancelled));
  assert.equal(errors!['q_proj.lora_A']!.upper, 0);
  assert.ok(errors!['q_proj.lora_B']!.upper > 0);
});
