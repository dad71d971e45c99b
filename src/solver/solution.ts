/** What the solver answers, and how a kernel's result becomes it. */
import type { Job } from '../../workers/job.js';
import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { SampledPlan } from '../../workers/kernels/sampled/plan/plan.js';
import type { AttentionProblem, StatesName } from '../../workers/problem.js';
import { finiteJob } from '../../workers/tasks/finite.js';
import type { ChooseOptions } from './choose-low-rank.js';
import { type EncodedResult, encodePhase, stateGradient } from './encode-phase.js';
import type { PhaseClock } from './phases.js';
import {
  type RoundingOf,
  type Sent,
  send,
  type TensorError,
  type TensorErrors,
  withoutCertificate,
} from './send.js';

export interface SolveOptions extends ChooseOptions {
  /** Whether the tolerance was stated in the request, not taken from the default. */
  readonly toleranceStated: boolean;
  /** Told of each phase that is over. */
  readonly clock?: PhaseClock;
}

export interface Solution {
  readonly result: GradientResult;
  readonly tensors: EncodedResult;
  /** Error figures of `tensors` as they are sent, by name: 'q_proj.lora_A', ... */
  readonly error: TensorErrors;
  readonly method: 'exact' | 'low_rank' | 'sampled';
  /** Why this kernel, in one sentence. */
  readonly reason: string;
  /** Whether another kernel than the chosen one had to compute it. */
  readonly fallback: boolean;
  /** The last plan of a low-rank run; null: nothing was planned. */
  readonly plan: LowRankPlan | null;
  /** The last plan of a sampled run; null: nothing was planned. */
  readonly sampled: SampledPlan | null;
}

export type Computed = Pick<Solution, 'result' | 'error'>;
export type Solved = Computed & Sent<EncodedResult>;
export type Planned = Omit<Solution, 'plan' | 'sampled'>;

export function* overflowed(result: GradientResult): Job<boolean> {
  const { gradients, inputGradients, sinks, loss, attentionOutput } = result;
  if (!Number.isFinite(loss ?? 0)) return true;
  const tensors: (Float32Array | Float64Array)[] = Object.values(gradients).flatMap(
    ({ lora_A, lora_B }) => [lora_A, lora_B],
  );
  tensors.push(...Object.values(inputGradients ?? {}));
  if (attentionOutput) tensors.push(attentionOutput);
  if (sinks) tensors.push(sinks);
  return !(yield* finiteJob(tensors));
}

/** Gradients of the inputs, of which neither low-rank nor sampled has a figure. */
export function inputErrors(
  problem: AttentionProblem,
  { inputGradients }: GradientResult,
): Record<string, TensorError> {
  const names = Object.keys(inputGradients ?? {}) as StatesName[];
  const unknown = withoutCertificate(null, 'Input gradients have none.');
  return Object.fromEntries(names.map((name) => [stateGradient(problem, name), unknown]));
}

export function* sent(
  problem: AttentionProblem,
  { result, error }: Computed,
  { encode, clock }: SolveOptions,
  roundingOf?: RoundingOf,
): Job<Solved> {
  clock?.('compute');
  const outcome = yield* send(encodePhase(problem, result, encode), error, roundingOf);
  clock?.('encode');
  return { result, ...outcome };
}

/** Whether the answer is held to the tolerance: not when it only is the default, and a kernel was asked for. */
export function isChecked({ method, toleranceStated }: SolveOptions): boolean {
  return toleranceStated || method === 'auto';
}
