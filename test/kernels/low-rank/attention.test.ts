/** Exact rows of P in the low-rank kernel: tiles against float64, and O left out against O formed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runJob } from '../../../workers/job.js';
import { ROWS } from '../../../workers/kernels/inner/block.js';
import { loadWasm } from '../../../workers/kernels/inner/load.js';
import { Arithmetic, type Real } from '../../../workers/kernels/low-rank/arithmetic/arithmetic.js';
import {
  Attention,
  fillPanels,
  openPanels,
} from '../../../workers/kernels/low-rank/arithmetic/attention.js';
import { TENSORS } from '../../../workers/kernels/low-rank/head/tensors.js';
import { lowRankJob } from '../../../workers/kernels/low-rank/job.js';
import { planLowRank } from '../../../workers/kernels/low-rank/plan/plan.js';
import { type LowRankTask, runLowRankTask } from '../../../workers/kernels/low-rank/task.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';
import { KERNELS } from '../builds.js';
import { distance, norm } from '../run.js';
import { makeProblem, normal } from './support.js';

/** Rows of several blocks of queries against some keys; G and thin factors of width 8. */
interface Case {
  readonly rows: number;
  readonly keys: number;
  readonly d: number;
  readonly dv: number;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly g: Float32Array;
  readonly u: Float32Array;
  readonly l: Float32Array;
  /** Of every block. */
  readonly hidden: readonly (Int32Array | null)[];
}

const P = 8;
const CASES = 30;
const whole = (n: number) => 8 * Math.ceil(n / 8);

function randomCase(random: Random): Case {
  const [rows, keys] = [1 + random.integer(2 * ROWS), 1 + random.integer(130)];
  const [d, dv] = [1 + random.integer(40), 1 + random.integer(40)];
  // Scores from tiny ones to such as need their row maxima.
  const size = 10 ** (2 * random.uniform() - 1);
  const fill = (n: number, width: number, scale: number) =>
    Float32Array.from({ length: n * width }, () => scale * normal(random));
  const masked = random.uniform() < 0.3;
  return {
    ...{ rows, keys, d, dv },
    q: fill(rows, d, size),
    k: fill(whole(keys), d, size),
    v: fill(whole(keys), dv, 1),
    g: fill(rows, dv, 1),
    u: fill(whole(keys), P, 1),
    l: fill(rows, P, 1),
    hidden: Array.from({ length: Math.ceil(rows / ROWS) }, () =>
      // The last row of a block sees every key: a row that sees none has no softmax.
      masked ? Int32Array.from({ length: keys }, () => random.integer(Math.min(rows, ROWS))) : null,
    ).map((hidden, b) => {
      const last = Math.min(ROWS, rows - b * ROWS) - 1;
      return hidden?.map((n, j) => (j === 0 ? 0 : Math.min(n, last))) ?? null;
    }),
  };
}

type Results = Record<'output' | 'dot' | 'right' | 'left' | 'leftValue', Float64Array>;

/** O, G.O, dS'u of the rows, dS l and P l of the keys. */
function byTiles(arithmetic: Arithmetic, fused: boolean, x: Case): Results {
  const mark = arithmetic.mark();
  const { rows, keys, d, dv } = x;
  const put = (data: Float32Array, n = data.length) => {
    const copy = arithmetic.array(n);
    copy.set(data);
    return copy;
  };
  const attention = new Attention(arithmetic, keys, d);
  const [queries, gradient] = [openPanels(arithmetic, rows, d), openPanels(arithmetic, rows, dv)];
  fillPanels(arithmetic, queries, rows, put(x.q), Math.LOG2E);
  fillPanels(arithmetic, gradient, rows, put(x.g), 1);
  const [k, v, u] = [put(x.k), put(x.v), put(x.u)];
  const scored = { k, count: keys, largest: arithmetic.largestNorm(keys, d, k) };
  const [left, leftValue] = [0, 0].map(() => arithmetic.array(whole(keys) * P));
  const results: Results = {
    output: new Float64Array(rows * dv),
    dot: new Float64Array(rows),
    right: new Float64Array(rows * P),
    left: new Float64Array(0),
    leftValue: new Float64Array(0),
  };
  x.hidden.forEach((hidden, block) => {
    const first = block * ROWS;
    const n = Math.min(ROWS, rows - first);
    const max = arithmetic.array(ROWS).fill(-1e29);
    const [total, dot] = [arithmetic.sums(ROWS), arithmetic.sums(ROWS)];
    const [transposed, right] = [arithmetic.array(dv * ROWS), arithmetic.array(ROWS * P)];
    const [shift, l]: Real[] = [arithmetic.array(ROWS), arithmetic.array(ROWS * P)];
    const [values, upstream] = [
      { v, width: dv },
      { gradient, block, dot },
    ];
    attention.scores(queries, block, scored, max, true, hidden);
    attention.weights(max, total, values, transposed, fused ? upstream : null);
    if (!fused) attention.products(values, upstream);
    for (let i = 0; i < n; i++) {
      shift[i] = dot[i] / total[i];
      results.dot[first + i] = dot[i] / total[i];
      for (let c = 0; c < P; c++) l[i * P + c] = x.l[(first + i) * P + c] / total[i];
      for (let a = 0; a < dv; a++) {
        results.output[(first + i) * dv + a] = transposed[a * ROWS + i] / total[i];
      }
    }
    attention.gradients(
      shift,
      { width: P, right: { factor: u, sum: right }, left: { factor: l, sum: left } },
      { width: P, right: null, left: { factor: l, sum: leftValue } },
    );
    for (let i = 0; i < n * P; i++) {
      results.right[first * P + i] = right[i] / total[Math.floor(i / P)];
    }
  });
  results.left = Float64Array.from(left.subarray(0, keys * P));
  results.leftValue = Float64Array.from(leftValue.subarray(0, keys * P));
  arithmetic.release(mark);
  return results;
}

/** The same as one writes it down, every operation rounded by `round`. */
function textbook(x: Case, round: (x: number) => number): Results {
  const { rows, keys, d, dv } = x;
  const results: Results = {
    output: new Float64Array(rows * dv),
    dot: new Float64Array(rows),
    right: new Float64Array(rows * P),
    left: new Float64Array(keys * P),
    leftValue: new Float64Array(keys * P),
  };
  const add = (to: Float64Array, at: number, y: number) => {
    to[at] = round(to[at] + round(y));
  };
  for (let i = 0; i < rows; i++) {
    const hidden = x.hidden[Math.floor(i / ROWS)];
    const sees = (j: number) => !hidden || i % ROWS >= hidden[j];
    const [s, t] = [new Float64Array(keys), new Float64Array(keys)];
    for (let j = 0; j < keys; j++) {
      for (let a = 0; a < d; a++) add(s, j, x.q[i * d + a] * x.k[j * d + a]);
      for (let a = 0; a < dv; a++) add(t, j, x.g[i * dv + a] * x.v[j * dv + a]);
    }
    const top = s.reduce((most, y, j) => (sees(j) ? Math.max(most, y) : most), -Infinity);
    const e = s.map((y, j) => (sees(j) ? round(Math.exp(round(y - top))) : 0));
    const total = e.reduce((sum, y) => round(sum + y), 0);
    const p = e.map((y) => round(y / total));
    for (let j = 0; j < keys; j++) {
      for (let a = 0; a < dv; a++) add(results.output, i * dv + a, p[j] * x.v[j * dv + a]);
    }
    for (let a = 0; a < dv; a++) add(results.dot, i, x.g[i * dv + a] * results.output[i * dv + a]);
    for (let j = 0; j < keys; j++) {
      const ds = round(p[j] * round(t[j] - results.dot[i]));
      for (let c = 0; c < P; c++) {
        add(results.right, i * P + c, ds * x.u[j * P + c]);
        add(results.left, j * P + c, ds * x.l[i * P + c]);
        add(results.leftValue, j * P + c, p[j] * x.l[i * P + c]);
      }
    }
  }
  return results;
}

const NAMES = ['output', 'dot', 'right', 'left', 'leftValue'] as const;
const random = new Random(testSeed());
const cases = Array.from({ length: CASES }, () => {
  const x = randomCase(random);
  return { x, truth: textbook(x, (y) => y), naive: textbook(x, Math.fround) };
});
for (const kernels of KERNELS) {
  test(`exact rows by tiles are as accurate as naive float32 (${kernels.build})`, () => {
    const arithmetic = new Arithmetic(loadWasm(kernels), () => {});
    const logs = new Float64Array(5);
    cases.forEach(({ x, truth, naive }, k) => {
      const tiles = byTiles(arithmetic, k % 2 === 0, x);
      NAMES.forEach((name, n) => {
        // Numbers of order 1, or all rounding where a row has a single key.
        const size = Math.sqrt(truth[name].length);
        const [ours, theirs] = [tiles, naive].map((x) => distance(x[name], truth[name]) / size);
        // Either may be exact by chance.
        const headGroup = 2 ** -24;
        logs[n] += Math.log((ours + headGroup) / (theirs + headGroup)) / CASES;
      });
    });
    NAMES.forEach((name, n) => {
      const ratio = Math.exp(logs[n]);
      assert.ok(ratio <= 2, `${name}: ${ratio} times the error of naive float32`);
    });
  });
}

test('gradients do not need O where G is given', () => {
  const wasm = loadWasm();
  const recipe = { seed: 5, queryLength: 700, d: 8, deviation: 0.3, tail: 't4' } as const;
  for (const causal of [false, true]) {
    const problem = makeProblem({ ...recipe, causal });
    const run = (task: LowRankTask) => runLowRankTask(task, wasm, () => false);
    const rates = { exact: 1, lowRank: 1 };
    const found = runJob(
      planLowRank(problem, { features: 40, tolerance: 0.01, seed: 1, rates }),
      run,
    );
    // Some rows and columns are exact, whatever the plan thinks of them.
    const headPlans = found.headPlans.map((plan) => {
      const some = Int32Array.from({ length: 21 }, (_, i) => 30 * i + 7);
      return { ...plan, outlierQueries: some, outlierKeys: some.map((row) => row + 3) };
    });
    const [without, beside] = [false, true].map((attentionOutput) => {
      const options = { seed: 1, correction: false, certificate: false, attentionOutput };
      return runJob(lowRankJob(problem, { ...found, headPlans }, options), run);
    });
    for (const name of TENSORS) {
      const [projection, part] = name.split('.') as ['q_proj', 'lora_A'];
      const [x, y] = [without, beside].map((result) => result.gradients[projection]![part]);
      assert.ok(distance(x, y) <= 1e-5 * norm(x), `${name}, causal ${causal}`);
      const errors = [without, beside].map((result) => result.errors[name]!.estimate.upper);
      assert.ok(Math.abs(errors[0] - errors[1]) <= 1e-3 * errors[0], `${name}: error figures`);
    }
  }
});
