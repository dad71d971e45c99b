/** Which kernel computes a problem, and what is done when its answer will not do. */
import { exactJob, rowsForEstimate } from '../../workers/kernels/exact/gradient.js';
import type { Job } from '../../workers/kernels/job.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { ErrorEstimate } from '../../workers/kernels/sampling/estimate.js';
import { Problem } from '../errors.js';
import type { AttentionProblem } from '../lora/problem.js';

/** Below this relative error float32 can promise nothing. */
const FLOAT32_TOLERANCE = 1e-5;

export interface SolveOptions {
  readonly attentionOutput: boolean;
  /** Relative error in the Frobenius norm allowed for every gradient tensor. */
  readonly tolerance: number;
  readonly seed: number;
}

export interface TensorError {
  /** null: computed in float64, and nothing more precise to compare with. */
  readonly estimate: ErrorEstimate | null;
  /** null: void, or not of the low-rank kernel. */
  readonly certificate: null;
}

export interface Solution {
  readonly result: GradientResult;
  /** By tensor: 'q_proj.lora_A', ... */
  readonly error: Readonly<Record<string, TensorError>>;
  readonly method: 'exact';
  /** Why this kernel, in one sentence. */
  readonly reason: string;
  readonly fallback: boolean;
}

export type Choice = Pick<Solution, 'method' | 'reason'> & {
  readonly kernel: 'float32' | 'float64';
};

export function choose(tolerance: number): Choice {
  if (tolerance >= FLOAT32_TOLERANCE) {
    return {
      kernel: 'float32',
      method: 'exact',
      reason: 'The exact kernel computes every problem.',
    };
  }
  return {
    kernel: 'float64',
    method: 'exact',
    reason: `The tolerance of ${tolerance} is below what float32 can keep (${FLOAT32_TOLERANCE}): computed in float64.`,
  };
}

function allFinite(data: Float32Array | Float64Array): boolean {
  // x * 0 is NaN for NaN and infinity; one look at the sum is quicker than one at every element.
  let sum = 0;
  for (let k = 0; k < data.length; k++) sum += data[k] * 0;
  return sum === 0;
}

function overflowed({ gradients, loss, attentionOutput }: GradientResult): boolean {
  const tensors: (Float32Array | Float64Array)[] = Object.values(gradients).flatMap(
    ({ lora_A, lora_B }) => [lora_A, lora_B],
  );
  if (attentionOutput) tensors.push(attentionOutput);
  return !Number.isFinite(loss ?? 0) || !tensors.every(allFinite);
}

/** @throws {Problem} when the result is beyond float64. */
function* inFloat64(problem: AttentionProblem, options: SolveOptions) {
  const { attentionOutput } = options;
  const result = yield* referenceJob(problem, { attentionOutput });
  if (overflowed(result)) {
    throw new Problem(
      'not-finite',
      'The tensors are finite, but the gradient is too large even for float64.',
    );
  }
  const error: Record<string, TensorError> = {};
  for (const name of Object.keys(result.gradients)) {
    error[`${name}.lora_A`] = { estimate: null, certificate: null };
    error[`${name}.lora_B`] = { estimate: null, certificate: null };
  }
  return { result, error };
}

export function* solve(problem: AttentionProblem, options: SolveOptions): Job<Solution> {
  const { kernel, method, reason } = choose(options.tolerance);
  if (kernel === 'float64') {
    return { ...(yield* inFloat64(problem, options)), method, reason, fallback: false };
  }
  const { errors, ...result } = yield* exactJob(problem, {
    attentionOutput: options.attentionOutput,
    estimate: { rows: rowsForEstimate(problem), seed: options.seed },
  });
  if (overflowed(result)) {
    return {
      ...(yield* inFloat64(problem, options)),
      method,
      reason: 'The numbers are too large for float32: computed in float64.',
      fallback: true,
    };
  }
  const error = Object.fromEntries(
    Object.entries(errors ?? {}).map(([name, estimate]) => [name, { estimate, certificate: null }]),
  );
  return { result, error, method, reason, fallback: false };
}
