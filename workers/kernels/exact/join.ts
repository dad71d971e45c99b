/** The sums of the parts of a problem become those of the whole, and so do the samples of their errors. */
import { type Job, stage } from '../../job.js';
import type { AttentionProblem, Contradiction } from '../../problem.js';
import { makeErrorSums } from '../estimate/estimate.js';
import type { BlocksTask } from '../parts/blocks.js';
import type { Cut } from '../parts/cut.js';
import { joinGradients, joinTensor, type Placed, placed } from '../parts/join.js';
import {
  type GradientOutputs,
  type ParameterGradients,
  sharedFloat32,
  tensorsOf,
} from '../result.js';
import type { Samples } from './error/estimate.js';
import type { ExactSums } from './sums.js';

export function* joinSums(
  problem: AttentionProblem,
  options: GradientOutputs,
  cuts: readonly Cut[],
  sums: readonly ExactSums[],
): Job<ExactSums, BlocksTask> {
  if (sums.length === 1) return sums[0]!;
  const parts = placed(problem, cuts, sums);
  const joined = yield* joinGradients(problem, options, parts, sharedFloat32);
  const samples = yield* joinSamples(problem, joined, parts);
  return { ...joined, contradiction: firstContradiction(parts), samples };
}

/** What is looked at twice in each part. */
interface Sampled {
  readonly samples: Samples;
}

export function* joinSamples(
  problem: AttentionProblem,
  totals: ParameterGradients,
  parts: readonly Placed<Sampled>[],
): Job<Samples, BlocksTask> {
  const sums = yield* joinErrors(problem, totals, parts);
  const samples = parts.map(({ result }) => result.samples);
  const squares: { -readonly [Name in keyof Samples['squares']]: number } = {};
  for (const part of samples) {
    for (const name of Object.keys(part.squares) as (keyof typeof squares)[]) {
      squares[name] = (squares[name] ?? 0) + part.squares[name]!;
    }
  }
  const { sinks } = totals;
  const ofSinks = sinks && { sinks: sinks.reduce((sum, x) => sum + x * x, 0) };
  return {
    sums,
    sizes: samples.flatMap(({ sizes }) => sizes),
    states: samples.flatMap(({ states }) => states),
    squares: { ...squares, ...ofSinks },
    rounding: Math.max(...samples.map(({ rounding }) => rounding)),
  };
}

/** The errors of their samples add up as the gradients do. */
function* joinErrors(
  problem: AttentionProblem,
  totals: ParameterGradients,
  parts: readonly Placed<Sampled>[],
): Job<Samples['sums'], BlocksTask> {
  if (!parts.every(({ result }) => result.samples.sums.length > 0)) return [];
  const errors = makeErrorSums(tensorsOf(totals).map(([name, { length }]) => [name, length]));
  const tasks = Object.entries(errors).map(([name, error]) => {
    const of = ({ samples }: Sampled) => samples.sums[0]![name]!;
    for (const { result } of parts) {
      const { totals: more } = of(result);
      for (let k = 0; k < 3; k++) error.totals[k]! += more[k]!;
      error.totals[3] = Math.max(error.totals[3]!, more[3]!);
    }
    return joinTensor(problem, name, error.error, parts, (sums) => of(sums).error);
  });
  yield* stage('join', tasks);
  return [errors];
}

function firstContradiction(parts: readonly Placed<ExactSums>[]): Contradiction | null {
  const found = parts.find(({ result }) => result.contradiction);
  if (!found) return null;
  const { cut, heads, result } = found;
  const { name, batchItem, head, row } = result.contradiction!;
  return {
    name,
    batchItem: cut.items.first + batchItem,
    head: heads.first + head,
    row: cut.rows.first + row,
  };
}
