/** One gradient request as a job: decode, compute, encode. */
import { decodeJob } from '../../workers/decode.js';
import { encodeJob } from '../../workers/encode.js';
import type { Job } from '../../workers/kernels/job.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../lora/intake.js';
import { type AttentionProblem, PROJECTIONS, type ProjectionName } from '../lora/problem.js';
import { nameOf } from '../lora/shapes.js';
import { efficiencyThreshold, type Threshold } from '../lora/threshold.js';
import type { EncodedTensor } from '../tensor/encoded.js';
import type { Tensor } from '../tensor/tensor.js';
import { referenceFlops } from './cost.js';

export interface Plan {
  /** Floating-point operations of the chosen kernel. */
  readonly flops: number;
  /** Those of the exact kernel. */
  readonly exact_flops: number;
}

export interface GradientOptions {
  readonly gradients: boolean;
  readonly attentionOutput: boolean;
  /** Whether tensors of the answer carry a batch dimension. */
  readonly batched: boolean;
}

export interface GradientAnswer {
  readonly gradients?: Partial<
    Record<ProjectionName, { readonly lora_A: EncodedTensor; readonly lora_B: EncodedTensor }>
  >;
  readonly loss?: number;
  readonly attention_output?: EncodedTensor;
  readonly method: 'exact';
  readonly reason: string;
  readonly fallback: boolean;
  readonly threshold: Threshold;
  readonly plan: Plan;
}

/** Milliseconds spent in each phase on the way. */
export type PhaseTimes = Record<'decode' | 'plan' | 'compute' | 'encode', number>;

/** @throws {Problem} naming the tensor and the first index, when a tensor holds NaN or infinity. */
export function* decodePhase(pending: readonly PendingTensor[]): Job<void> {
  const found = yield* decodeJob(pending);
  if (found) {
    throw new Problem(
      'not-finite',
      `${nameOf(found.pointer)} holds ${found.value} at flat index ${found.index} (row-major).`,
      { pointer: found.pointer },
    );
  }
}

function* encodeAnswer(
  problem: AttentionProblem,
  result: GradientResult,
  options: GradientOptions,
): Job<Pick<GradientAnswer, 'gradients' | 'attention_output'>> {
  const outgoing: { data: Float32Array | Float64Array; like: Tensor; shape: readonly number[] }[] =
    [];
  const adapted = PROJECTIONS.filter((name) => options.gradients && result.gradients[name]);
  for (const name of adapted) {
    const { adapter } = problem.projections[name];
    const gradient = result.gradients[name];
    if (!adapter || !gradient) continue;
    outgoing.push({ data: gradient.lora_A, like: adapter.A, shape: adapter.A.shape });
    outgoing.push({ data: gradient.lora_B, like: adapter.B, shape: adapter.B.shape });
  }
  if (result.attentionOutput) {
    const { tensor } = problem.objective;
    const shape = options.batched ? tensor.shape : tensor.shape.slice(1);
    outgoing.push({ data: result.attentionOutput, like: tensor, shape });
  }
  const encoded = yield* encodeJob(
    outgoing.map(({ data, like, shape }) => ({ data, dtype: like.dtype, shape })),
  );
  return {
    ...(options.gradients && {
      gradients: Object.fromEntries(
        adapted.map((name, k) => [name, { lora_A: encoded[2 * k], lora_B: encoded[2 * k + 1] }]),
      ),
    }),
    ...(result.attentionOutput && { attention_output: encoded[2 * adapted.length] }),
  };
}

/**
 * @param times filled in as the phases pass.
 * @throws {Problem} when a tensor is not finite.
 */
export function* gradientJob(
  problem: AttentionProblem,
  pending: readonly PendingTensor[],
  options: GradientOptions,
  times: PhaseTimes,
): Job<GradientAnswer> {
  const clock = phaseClock(times);
  yield* decodePhase(pending);
  clock('decode');
  const flops = referenceFlops(problem);
  clock('plan');
  const result = yield* referenceJob(problem, { attentionOutput: options.attentionOutput });
  clock('compute');
  const tensors = yield* encodeAnswer(problem, result, options);
  clock('encode');
  return {
    ...tensors,
    ...(result.loss !== null && { loss: result.loss }),
    method: 'exact',
    reason: 'The exact kernel computes every problem in float64.',
    fallback: false,
    threshold: efficiencyThreshold(result.norms, problem.dims),
    plan: { flops, exact_flops: flops },
  };
}

/** Each call books the time since the one before. */
export function phaseClock(times: PhaseTimes): (phase: keyof PhaseTimes) => void {
  let since = performance.now();
  return (phase) => {
    const now = performance.now();
    times[phase] += now - since;
    since = now;
  };
}
