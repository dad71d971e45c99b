/**
 * What a layer has beside its projections: rotary positions, padding, gradients of the inputs. The
 * exact kernel against float64, measured with the error of plain float32 as in exact.test.ts.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AttentionKind, AttentionProblem } from '../../workers/problem.js';
import { testSeed, uniform } from '../support/random.js';
import { loadEvery } from './builds.js';
import { type NaiveResult, naiveGradient } from './naive.js';
import { assertNorms } from './norms.js';
import { type ProblemOptions, randomProblem } from './problems.js';
import { distance, exact, named, norm, reference } from './run.js';

/** Errors of eight roundings, relative to the gradient, need no comparison: plain float32 has less on some problems, by luck. */
const FLOOR = 5e-7;

const builds = loadEvery();

const sum = (...all: Float32Array[]) =>
  all[0]!.map((_, k) => all.reduce((total, x) => total + x[k]!, 0));

/** The naive gradient of that name. */
function naiveOf({ gradients, inputs }: NaiveResult, name: string): Float32Array {
  const { q_proj, k_proj, v_proj } = inputs;
  switch (name) {
    case 'hidden_states':
      return sum(q_proj, k_proj, v_proj);
    case 'query_states':
      return q_proj;
    case 'key_states':
      return k_proj;
    case 'value_states':
      return v_proj;
    default:
      return gradients.get(name)!;
  }
}

/** @returns the error of each gradient, in every build, over that of plain float32. */
function check(
  problem: AttentionProblem,
  kind: AttentionKind | undefined,
  what: string,
  times = 3,
): number[] {
  const ratios: number[] = [];
  const truth = reference(problem, kind);
  const naive = naiveGradient(problem);
  const expected = named(truth);
  // Gradients may vanish where those of the values do not: these set the scale.
  const outputError = distance(naive.output, truth.attentionOutput!);
  for (const [build, wasm] of Object.entries(builds)) {
    const where = `${build}, ${what}`;
    const answer = exact(problem, wasm, true, kind);
    const error = distance(answer.attentionOutput!, truth.attentionOutput!);
    const limit = 2 * outputError + FLOOR * norm(truth.attentionOutput!);
    assert.ok(error <= limit, `output ${error}, allowed ${limit}, ${where}`);
    assert.deepEqual([...named(answer).keys()].sort(), [...expected.keys()].sort());
    for (const [name, gradient] of named(answer)) {
      const truth = expected.get(name)!;
      const naiveError = distance(naiveOf(naive, name), truth);
      const allowed = times * naiveError + FLOOR * norm(truth);
      const error = distance(gradient, truth);
      ratios.push(error / (naiveError || 1));
      assert.ok(error <= allowed, `${name}: ${error}, allowed ${allowed}, ${where}`);
    }
    assertNorms(answer.headNorms, truth.headNorms, where);
  }
  return ratios;
}

const cases: Record<string, Omit<ProblemOptions, 'seed'> & { inputs?: AttentionKind }> = {
  rotary: { rotary: true },
  'rotary, q and v only': { rotary: true, ranks: { q: 8, v: 8 }, queryLength: 150 },
  'rotary, k only': { rotary: true, ranks: { k: 8 }, queryLength: 150, objective: 'target' },
  'rotary, v only': { rotary: true, ranks: { v: 3 }, queryLength: 90 },
  'partial rotary, causal, grouped heads, batch': {
    ...{ rotary: 6, causal: true, heads: 6, keyValueHeads: 2, batch: 2, queryLength: 130 },
    ...{ bias: true, headDim: 6 },
  },
  padding: { keyLengths: [40] },
  'padding in a batch, down to one key': { keyLengths: [1, 64, 9], batch: 3, heads: 2 },
  'padding, causal, cross': {
    ...{ keyLengths: [77, 130], batch: 2, queryLength: 150, keyLength: 133, causal: true },
  },
  'input gradients': { inputs: 'self' },
  'input gradients, no adapter': { inputs: 'self', ranks: {}, queryLength: 100 },
  'input gradients, cross': {
    ...{ inputs: 'cross', queryLength: 90, keyLength: 210, headDim: 12, valueDim: 20 },
    ...{ objective: 'target', bias: true },
  },
  'input gradients, odd widths': {
    ...{ inputs: 'self', headDim: 19, valueDim: 13, inFeatures: 23, queryLength: 133 },
  },
  everything: {
    ...{ inputs: 'self', rotary: true, causal: true, keyLengths: [150, 83], batch: 2 },
    ...{ queryLength: 150, heads: 4, keyValueHeads: 2, bias: true, objective: 'target' },
  },
  'everything in float64': {
    ...{ inputs: 'self', rotary: true, keyLengths: [70], queryLength: 99, dtype: 'float64' },
  },
};

for (const [name, { inputs, ...options }] of Object.entries(cases)) {
  test(`layer: ${name}`, () => {
    check(randomProblem({ seed: 8, ...options }), inputs, name);
  });
}

test('layer: random shapes', (t) => {
  const seed = testSeed();
  const next = uniform(seed);
  const integer = (low: number, high: number) => low + Math.floor(next() * (high - low + 1));
  const maybe = () => next() < 0.5;
  const ratios: number[] = [];
  for (let round = 0; round < 12; round++) {
    const [keyValueHeads, batch] = [integer(1, 2), integer(1, 2)];
    const rotary = maybe() && (maybe() || 4);
    // A row that sees a single key has no gradient but in V: zero, beside which no rounding is small.
    const queryLength = integer(2, 150);
    const keyLength = rotary ? queryLength : integer(2, 150);
    const options = {
      ...{ seed: seed + round, batch, keyValueHeads, queryLength, keyLength, rotary },
      heads: keyValueHeads * integer(1, 2),
      headDim: rotary ? 2 * integer(2, 20) : integer(3, 40),
      valueDim: integer(3, 40),
      // Sums of a few products are exact by luck: then plain float32 is no yardstick.
      inFeatures: integer(8, 40),
      ranks: { q: integer(0, 9), k: integer(0, 9), v: integer(0, 9) },
      causal: maybe(),
      bias: maybe(),
      objective: maybe() ? ('target' as const) : ('grad_output' as const),
      ...(maybe() && { keyLengths: Array.from({ length: batch }, () => integer(2, keyLength)) }),
    };
    const kind = maybe() ? undefined : keyLength === queryLength && maybe() ? 'self' : 'cross';
    const what = JSON.stringify({ ...options, kind });
    t.diagnostic(what);
    // One small problem is a lottery, as in exact/gradient.test.ts.
    ratios.push(...check(randomProblem(options), kind, what, 60));
  }
  ratios.sort((a, b) => a - b);
  const median = ratios[Math.floor(ratios.length / 2)]!;
  assert.ok(median < 2, `median of error over that of plain float32: ${median}, seed ${seed}`);
});
