/** The exact kernel, and float64 where float32 does not do. */
import type { Job } from '../../workers/job.js';
import { frobenius } from '../../workers/kernels/estimate/estimate.js';
import { exactFlops } from '../../workers/kernels/exact/cost.js';
import { rowsForEstimate } from '../../workers/kernels/exact/error/row-samples.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { referenceParts } from '../../workers/kernels/reference/parts.js';
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
  withoutCertificate,
} from './send.js';
import {
  inputErrors,
  isChecked,
  overflowed,
  type Planned,
  type Solved,
  type SolveOptions,
  sent,
} from './solution.js';

/** float64 rounds by so much less than float32. */
const FINER = 2 ** -29;

/**
 * @param inFloat32 largest limit that the errors of float32 had; 0: it is not known.
 * @throws {Problem} when the result is beyond float64.
 */
export function* inFloat64(
  problem: AttentionProblem,
  options: SolveOptions,
  inFloat32 = 0,
): Job<Solved> {
  const { attentionOutput, inputGradients } = options;
  const result = yield* referenceParts(problem, { attentionOutput, inputGradients });
  if (yield* overflowed(result)) {
    throw new Problem(
      'not-finite',
      'The tensors are finite, but the gradient is too large even for float64.',
    );
  }
  const estimate = inFloat32 > 0 ? { ...IN_FLOAT64, upper: FINER * inFloat32 } : IN_FLOAT64;
  const error: Record<string, TensorError> = {};
  for (const name of Object.keys(result.gradients)) {
    error[`${name}.lora_A`] = withoutCertificate(estimate);
    error[`${name}.lora_B`] = withoutCertificate(estimate);
  }
  if (result.sinks) error.sinks = withoutCertificate(estimate);
  return yield* sent(
    problem,
    { result, error: { ...inputErrors(problem, result, estimate), ...error } },
    options,
  );
}

/** Below it weights of sinks may be less than the least numbers of float32. */
const TINY = 2 ** -100;

function isTiny(sinks: TensorData | null): boolean {
  const norm = sinks ? frobenius(sinks) : 0;
  return norm > 0 && norm < TINY;
}

/** null: the numbers are too large for float32, or too small. */
function* inFloat32(problem: AttentionProblem, options: SolveOptions): Job<Solved | null> {
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
  return yield* sent(problem, { result, error }, options);
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
  if (single && (single.worst <= tolerance || !isChecked(options))) {
    return { ...single, method: 'exact', reason, fallback };
  }
  if (single) {
    requirePrecision(single.rounded, tolerance);
    if (exactFlops(problem, needsOf(problem, options)) > FLOAT64_FLOPS) {
      requireTolerance(single, tolerance);
    }
  }
  const why = single
    ? `In float32 the error is up to ${single.worst.toPrecision(2)}, above the tolerance of ${tolerance}`
    : 'The numbers are too large for float32';
  const double = yield* inFloat64(problem, options, single?.worst);
  if (isChecked(options)) requireTolerance(double, tolerance);
  return { ...double, method: 'exact', reason: `${why}: computed in float64.`, fallback: true };
}
