/** Gradients with drawn far keys: what they converge to, what their error figures say, and that no thread changes them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { chiSquare } from '../../../workers/kernels/sampled/error/errors.js';
import { sampledJob } from '../../../workers/kernels/sampled/job.js';
import { planSampled } from '../../../workers/kernels/sampled/plan/stages.js';
import { runSampledTask } from '../../../workers/kernels/sampled/run.js';
import { packedSequences } from '../../../workers/mask.js';
import { type AttentionProblem, hasAttentionStates } from '../../../workers/problem.js';
import { testSeed } from '../../support/random.js';
import {
  type ProblemOptions,
  randomProblem,
  randomStates,
  rotaryTables,
  statesWithSums,
  tensor,
} from '../problems.js';
import { distance, exact, named, norm } from '../run.js';

type Floats = Float32Array;

const wasm = loadWasm();
const SEED = testSeed(5);
/** Of the blocks that plans look at: by others, two blocks of a sliding window may see fewer far keys than are asked for. */
const LOOKS = 5;

const outputs = (problem: AttentionProblem) => ({
  attentionOutput: false,
  inputGradients: hasAttentionStates(problem) ? ('attention' as const) : undefined,
});

function planned(problem: AttentionProblem, keys: number | undefined, tolerance = 0.1) {
  const wanted = outputs(problem);
  const needs = {
    gradients: true,
    output: false,
    inputGradients: wanted.inputGradients !== undefined,
  };
  const job = planSampled(problem, { ...wanted, keys, tolerance, needs, seed: LOOKS });
  return runJob(job, (task, stop) => runSampledTask(task, wasm, stop));
}

function sampled(problem: AttentionProblem, keys: number | undefined, seed = SEED) {
  const { plan } = planned(problem, keys);
  const job = sampledJob(problem, plan, { ...outputs(problem), seed });
  return runJob(job, (task, stop) => runSampledTask(task, wasm, stop));
}

const truth = (problem: AttentionProblem) =>
  named(exact(problem, wasm, false, outputs(problem).inputGradients));

const long = { queryLength: 1100, headDim: 24, inFeatures: 32, spread: 3 };
const shapes: Record<string, Omit<ProblemOptions, 'seed'>> = {
  'thin products, causal': { ...long, heads: 2, causal: true },
  'rotary, grouped heads, causal': {
    ...{ ...long, heads: 4, keyValueHeads: 2, causal: true, rotary: true },
    ranks: { q: 4, v: 4 },
  },
  'no mask, batch with padding, bias': {
    ...{ ...long, queryLength: 500, keyLength: 900, batch: 2, keyLengths: [900, 611], bias: true },
  },
  'packed sequences, sliding window': {
    ...{ ...long, heads: 2 },
    mask: { left: 500, right: 0, sequences: packedSequences([[830, 1100]]) },
  },
  'soft cap': { ...long, heads: 2, causal: true, softcap: 4 },
};

const problems: Record<string, AttentionProblem> = {
  ...Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [name, randomProblem({ ...shape, seed: SEED })]),
  ),
  'attention states, causal': randomStates({ ...long, heads: 2, causal: true, seed: SEED }),
  'attention states, sinks, soft cap': statesWithSums({
    ...{ ...long, heads: 2, causal: true, sinks: true, softcap: 4, seed: SEED },
  }),
};

for (const [name, problem] of Object.entries(problems)) {
  test(`${name}: with every key drawn the gradient is exact`, () => {
    const got = named(sampled(problem, 10 * long.queryLength));
    for (const [tensor, x] of truth(problem)) {
      const error = distance(x, got.get(tensor)!) / norm(x);
      assert.ok(error < 1e-5, `${tensor}: ${error}; seed ${SEED}`);
    }
  });

  test(`${name}: the error of drawn keys is what the figures say`, () => {
    const result = sampled(problem, 150);
    const got = named(result);
    let [largest, overstated] = [0, Number.POSITIVE_INFINITY];
    for (const [tensor, x] of truth(problem)) {
      const error = distance(x, got.get(tensor)!) / norm(got.get(tensor)!);
      const { upper, standard_error } = result.errors[tensor]!;
      assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}`);
      // Of a few numbers, or of rounding alone, an error may be small by chance: that of one tensor is not.
      overstated = Math.min(overstated, standard_error / error);
      largest = Math.max(largest, error);
    }
    assert.ok(overstated < 10, `every error is below a tenth of what is said; seed ${SEED}`);
    assert.ok(largest > 1e-3, `nothing was drawn: ${largest}; seed ${SEED}`);
  });
}

test('the answer does not depend on the order in which tasks run, or on the thread', () => {
  const problem = problems['rotary, grouped heads, causal']!;
  const { plan } = planned(problem, 150);
  const instances = [loadWasm(), loadWasm(), loadWasm()];
  const mixed = () => {
    const job = sampledJob(problem, plan, { ...outputs(problem), seed: SEED });
    let step = job.next([]);
    while (!step.done) {
      const { tasks, stride = tasks.length } = step.value;
      const results: unknown[] = [];
      for (let first = 0; first < tasks.length; first += stride) {
        const last = Math.min(first + stride, tasks.length);
        for (let k = last - 1; k >= first; k--) {
          const task = structuredClone(tasks[k]!);
          results[k] = runSampledTask(task, instances[k % instances.length]!, () => false);
        }
      }
      step = job.next(results);
    }
    return named(step.value);
  };
  const job = sampledJob(problem, plan, { ...outputs(problem), seed: SEED });
  const plain = named(runJob(job, (task, stop) => runSampledTask(task, wasm, stop)));
  for (const [tensor, x] of mixed()) assert.deepEqual(x, plain.get(tensor), tensor);
});

test('the mean over seeds comes closer to the exact gradient than single draws', () => {
  const problem = problems['thin products, causal']!;
  const draws = Array.from({ length: 12 }, (_, k) => named(sampled(problem, 150, SEED + k)));
  for (const [tensor, x] of truth(problem)) {
    const mean = x.map((_, k) => draws.reduce((sum, draw) => sum + draw.get(tensor)![k]!, 0) / 12);
    const single = Math.sqrt(
      draws.reduce((sum, draw) => sum + distance(x, draw.get(tensor)!) ** 2, 0) / draws.length,
    );
    assert.ok(distance(x, mean) < 0.6 * single, `${tensor}; seed ${SEED}`);
  }
});

test('with the inputs of the projections errors are those of the gradients of the weights', () => {
  const states = randomStates({ ...long, heads: 2, causal: true, seed: SEED });
  const { queryLength: L, headDim: d } = states.dims;
  const X = randomProblem({ ...long, seed: SEED + 1 }).inputs.query;
  const rotary = rotaryTables(1, L, d / 2, 'float32');
  const problem = { ...states, projectedFrom: { query: X, key: X, value: X, rotary } };
  const result = sampled(problem, 150);
  const exactly = truth(problem);
  for (const name of ['query', 'key', 'value'] as const) {
    const of = (dY: Float32Array | Float64Array) => {
      const out = new Float64Array(X.shape[2]! * 2 * d);
      for (let i = 0; i < L; i++) {
        for (let h = 0; h < 2; h++) {
          const row = Float64Array.from(dY.subarray((i * 2 + h) * d, (i * 2 + h + 1) * d));
          if (name !== 'value') turnBack(rotary, i, row);
          for (let a = 0; a < X.shape[2]!; a++) {
            for (let c = 0; c < d; c++) {
              out[(a * 2 + h) * d + c]! += X.data[i * X.shape[2]! + a]! * row[c]!;
            }
          }
        }
      }
      return out;
    };
    const [want, got] = [of(exactly.get(name)!), of(named(result).get(name)!)];
    const error = distance(want, got) / norm(got);
    const { upper, standard_error } = result.errors[name]!;
    assert.ok(error <= upper, `${name}: ${error} above ${upper}; seed ${SEED}`);
    assert.ok(error >= standard_error / 10, `${name}: ${error} of ${standard_error}; seed ${SEED}`);
  }
});

/** The transpose of x cos + rotate_half(x) sin, of the first channels of one token. */
function turnBack({ cos, sin }: ReturnType<typeof rotaryTables>, token: number, y: Float64Array) {
  const width = cos.shape[2];
  const half = width / 2;
  const at = token * width;
  for (let c = 0; c < half; c++) {
    const [a, b] = [y[c]!, y[c + half]!];
    y[c] = a * cos.data[at + c]! + b * sin.data[at + half + c]!;
    y[c + half] = b * cos.data[at + half + c]! - a * sin.data[at + c]!;
  }
}

test('heads that no proxy serves are computed exactly inside the answer', () => {
  // Each query wants one key of its own, which no few coordinates tell from the others.
  const states = randomStates({ ...long, headDim: 64, heads: 2, causal: true, seed: SEED });
  const { query, key } = states.inputs;
  const half = (k: number) => Math.floor(k / 64) % 2 === 0;
  const problem = {
    ...states,
    inputs: {
      ...states.inputs,
      key,
      query: tensor(query.shape as number[], 'float32', (k) =>
        half(k) ? 4 * key.data[((k >> 7) % 400) * 128 + (k % 128)]! : query.data[k]! / 4,
      ),
    },
  };
  const { plan } = planned(problem, undefined, 0.2);
  const result = runJob(
    sampledJob(problem, plan, { ...outputs(problem), seed: SEED }),
    (task, stop) => runSampledTask(task, wasm, stop),
  );
  for (const [tensor, x] of truth(problem)) {
    const got = named(result).get(tensor)!;
    const error = distance(x, got) / norm(got);
    assert.ok(error <= result.errors[tensor]!.upper, `${tensor}: ${error}; seed ${SEED}`);
  }
});

/** Attention states in which something stands that proxies do not see. */
const hidden: Record<string, (query: Floats, key: Floats, grad: Floats) => void> = {
  'a key that every second row wants, along a channel that no other key has': (query, key) => {
    const [wanted, last] = [200, 63];
    for (let i = 0; i < 1100; i++) {
      key[i * 128 + last]! *= 0.01;
      query[i * 128 + last] = i % 2 ? 1.6 : 0;
    }
    key.fill(0, wanted * 128, wanted * 128 + last);
    key[wanted * 128 + last] = 40;
  },
  'a few rows with a key and a large gradient of their own': (query, key, grad) => {
    for (const row of [611, 700, 853, 990]) {
      for (let c = 64; c < 128; c++) {
        query[row * 128 + c] = 3 * key[(row >> 2) * 128 + c]!;
        grad[row * 128 + c]! *= 20;
      }
    }
  },
};

for (const [name, edit] of Object.entries(hidden)) {
  test(`${name}: in the limits`, () => {
    const shape = { ...long, spread: 1, headDim: 64, heads: 2, causal: true };
    const states = randomStates({ ...shape, seed: SEED });
    const { query, key } = states.inputs;
    const grad = states.objective!.tensor;
    edit(query.data as Floats, key.data as Floats, grad.data as Floats);
    const exactly = truth(states);
    for (const seed of [SEED, SEED + 1, SEED + 2]) {
      const result = sampled(states, 40, seed);
      const got = named(result);
      for (const [tensor, x] of exactly) {
        const error = distance(x, got.get(tensor)!) / norm(got.get(tensor)!);
        const { upper } = result.errors[tensor]!;
        assert.ok(error <= upper, `${tensor}: ${error} above ${upper}; seed ${SEED}`);
      }
    }
  });
}

test('the limit of a sum of squares is that of chi^2', () => {
  // 99 % of chi^2 over its degrees of freedom, from tables.
  for (const [freedom, quantile] of [
    [1, 6.635],
    [2, 4.605],
    [5, 3.017],
    [20, 1.878],
    [100, 1.358],
  ] as const) {
    assert.ok(Math.abs(chiSquare(freedom) / quantile - 1) < 0.02, `${freedom}`);
  }
});
