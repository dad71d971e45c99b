/** The exact kernel, and float64 where float32 does not do. */
import type { Job } from '../../workers/job.js';
import { frobenius } from '../../workers/kernels/estimate/estimate.js';
import { exactFlops } from '../../workers/kernels/exact/cost.js';
import { rowsForEstimate } from '../../workers/kernels/exact/error/row-samples.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { referenceParts } from '../../workers/kernels/reference/parts.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionProblem, Contradiction, StatesName } from '../../workers/problem.js';
import type { TensorData } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import { needsOf } from './choose-low-rank.js';
import { stateGradient } from './encode-phase.js';
import {
  IN_FLOAT64,
  requirePrecision,
  requireTolerance,
  type TensorError,
  type TensorErrors,
  withoutCertificate,
} from './send.js';
import {
  isChecked,
  overflowed,
  type Planned,
  type Solved,
  type SolveOptions,
  sent,
} from './solution.js';

/** Gradients in float32 and their errors, before they are rounded to the dtypes of the answer. */
interface Single {
  readonly result: GradientResult;
  readonly error: TensorErrors;
}

/** float64 rounds by so much less than float32. */
const FINER = 2 ** -29;
/** Where the error may be as large as half of what was computed, no digit of it is known. */
const NO_DIGIT = 0.5;
/** What float32 may be off by wherever it looks exact. */
const LEAST = 2 ** -20;

/** Tensors that have error figures, by their names in `error`. */
function named(
  problem: AttentionProblem,
  { gradients, inputGradients, sinks }: GradientResult,
): [string, TensorData][] {
  return [
    ...Object.entries(gradients).flatMap(([name, { lora_A, lora_B }]): [string, TensorData][] => [
      [`${name}.lora_A`, lora_A],
      [`${name}.lora_B`, lora_B],
    ]),
    ...Object.entries(inputGradients ?? {}).map(([name, data]): [string, TensorData] => [
      stateGradient(problem, name as StatesName),
      data,
    ]),
    ...(sinks ? [['sinks', sinks] as [string, TensorData]] : []),
  ];
}

/**
 * The figures of tensors in float64 by what they were in float32. Of a gradient that is zero, as where all values are equal,
 * float32 has rounding and no digit, and float64 has less of the same: its limit is relative to a smaller norm.
 */
function* finer(
  problem: AttentionProblem,
  result: GradientResult,
  { error: computed, result: coarse }: Single,
): Generator<[string, TensorError]> {
  const upper = (name: string) => computed[name]?.estimate?.upper ?? 0;
  const before = new Map(named(problem, coarse));
  const digits = Object.keys(computed).filter((name) => upper(name) < NO_DIGIT);
  const known = Math.max(LEAST, ...digits.map(upper));
  for (const [name, data] of named(problem, result)) {
    let off = known;
    if (upper(name) >= NO_DIGIT) {
      const norm = frobenius(data);
      // Where float32 had zero it was off by all of it; an error is relative to nothing where float64 has zero, too.
      const norms = norm > 0 ? frobenius(before.get(name)!) / norm || 1 : Number.POSITIVE_INFINITY;
      off = Math.max(known, upper(name) * norms);
    }
    const figures = FINER * off < NO_DIGIT ? { ...IN_FLOAT64, upper: FINER * off } : null;
    yield [name, withoutCertificate(figures)];
  }
}

/**
 * @param single what float32 had; null: its numbers overflowed.
 * @throws {Problem} when the result is beyond float64.
 */
export function* inFloat64(
  problem: AttentionProblem,
  options: SolveOptions,
  single: Single | null,
): Job<Solved> {
  const { attentionOutput, inputGradients } = options;
  const result = yield* referenceParts(problem, { attentionOutput, inputGradients });
  if (yield* overflowed(result)) {
    throw new Problem(
      'not-finite',
      'The tensors are finite, but the gradient is too large even for float64.',
    );
  }
  const error = single
    ? finer(problem, result, single)
    : named(problem, result).map(([name]) => [name, withoutCertificate(IN_FLOAT64)] as const);
  return yield* sent(problem, { result, error: Object.fromEntries(error) }, options);
}

/** Below it weights of sinks may be less than the least numbers of float32. */
const TINY = 2 ** -100;

function isTiny(sinks: TensorData | null): boolean {
  const norm = sinks ? frobenius(sinks) : 0;
  return norm > 0 && norm < TINY;
}

/** null: the numbers are too large for float32, or too small. */
export function* inFloat32(problem: AttentionProblem, options: SolveOptions): Job<Single | null> {
  const { errors, contradiction, ...result } = yield* exactJob(problem, {
    attentionOutput: options.attentionOutput,
    inputGradients: options.inputGradients,
    estimate: { rows: rowsForEstimate(problem), seed: options.seed },
  });
  if (contradiction) throw contradictory(contradiction);
  if ((yield* overflowed(result)) || isTiny(result.sinks)) return null;
  const inputs = Object.keys(result.inputGradients ?? {});
  const error = Object.fromEntries(
    Object.entries(errors ?? {}).map(([name, estimate]) => [
      inputs.includes(name) ? stateGradient(problem, name as StatesName) : name,
      withoutCertificate(estimate),
    ]),
  );
  return { result, error };
}

/** What the client knows of its forward pass is refused when it is that of another one. */
function contradictory({ name, batchItem, head, row }: Contradiction): Problem {
  return new Problem(
    'invalid-value',
    `${name} is not that of query, key and value under the masks of this request: it differs at batch item ${batchItem}, head ${head}, row ${row}.`,
    { pointer: `/${name}` },
  );
}

/** Floating-point operations of a problem that float64 does in some seconds. */
const FLOAT64_FLOPS = 1e10;

/** @throws {Problem} when the answer as it is sent misses the tolerance. */
export function* exactly(
  problem: AttentionProblem,
  options: SolveOptions,
  reason: string,
  fallback: boolean,
): Job<Planned> {
  const { tolerance } = options;
  const single = yield* inFloat32(problem, options);
  const solved = single && (yield* sent(problem, single, options));
  if (solved && (solved.worst <= tolerance || !isChecked(options))) {
    return { ...solved, method: 'exact', reason, fallback };
  }
  if (solved) {
    requirePrecision(solved.rounded, tolerance);
    if (exactFlops(problem, needsOf(problem, options)) > FLOAT64_FLOPS) {
      requireTolerance(solved, tolerance);
    }
  }
  const why = solved
    ? `In float32 the error is up to ${solved.worst.toPrecision(2)}, above the tolerance of ${tolerance}`
    : 'The numbers are too large for float32';
  const double = yield* inFloat64(problem, options, single);
  if (isChecked(options)) requireTolerance(double, tolerance);
  return { ...double, method: 'exact', reason: `${why}: computed in float64.`, fallback: true };
}
