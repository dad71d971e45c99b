/** One forward request as a job: decode, compute the attention output, encode. */

import type { Job } from '../../workers/job.js';
import { exactForwardJob } from '../../workers/kernels/exact/forward.js';
import { lowRankForwardParts } from '../../workers/kernels/low-rank/forward-job.js';
import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import { referenceForwardParts } from '../../workers/kernels/reference/parts.js';
import type { ForwardResult } from '../../workers/kernels/result.js';
import type { AttentionLayer } from '../../workers/problem.js';
import { finiteJob } from '../../workers/tasks/finite.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import { Problem } from '../errors.js';
import type { PendingTensor } from '../request/intake.js';
import { choose } from '../solver/choose.js';
import type { Choice } from '../solver/choose-low-rank.js';
import { encodeForwardPhase } from '../solver/encode-phase.js';
import { planFigures } from '../solver/figures.js';
import type { Workplace } from '../solver/phases.js';
import {
  IN_FLOAT64,
  requireTolerance,
  send,
  type TensorError,
  withoutCertificate,
} from '../solver/send.js';
import { isChecked, type Solution, type SolveOptions } from '../solver/solution.js';
import { missedReason, secondPlan, toleranceMissed } from '../solver/solve.js';
import { efficiencyThreshold, theoryAndPractice } from '../solver/threshold.js';
import { decodePhase } from './decode-phase.js';
import type { GradientAnswer } from './gradient-job.js';

export interface ForwardAnswer
  extends Pick<GradientAnswer, 'method' | 'reason' | 'fallback' | 'threshold' | 'plan'> {
  readonly attention_output: EncodedTensor;
  readonly error: { readonly attention_output: TensorError };
}

type ForwardSolution = Pick<Solution, 'method' | 'reason' | 'fallback' | 'plan'> & {
  readonly result: ForwardResult;
  readonly estimate: TensorError['estimate'];
};

/** @throws {Problem} when the result is beyond float64. */
function* inFloat64(layer: AttentionLayer): Job<Pick<ForwardSolution, 'result' | 'estimate'>> {
  const result = yield* referenceForwardParts(layer);
  if (yield* finiteJob([result.attentionOutput])) return { result, estimate: IN_FLOAT64 };
  throw new Problem(
    'not-finite',
    'The tensors are finite, but the attention output is too large even for float64.',
  );
}

/**
 * @param second This plan was made since another one did not keep its promise.
 * @throws {Problem} when low_rank was asked for and cannot keep what was promised.
 */
function* approximately(
  layer: AttentionLayer,
  plan: LowRankPlan,
  options: SolveOptions,
  reason: string,
  second = false,
): Job<ForwardSolution> {
  const { seed, tolerance, features, toleranceStated } = options;
  const { error, lostRows, ...result } = yield* lowRankForwardParts(layer, plan, seed);
  const worst = lostRows > 0 ? Number.POSITIVE_INFINITY : error.upper;
  const unchecked = features !== undefined && !toleranceStated;
  if (worst <= tolerance || (unchecked && worst < Number.POSITIVE_INFINITY)) {
    return { result, estimate: error, method: 'low_rank', reason, fallback: false, plan };
  }
  const missed = missedReason(plan, worst, tolerance);
  const next = second ? null : yield* secondPlan(layer, plan, worst, options);
  if (next) {
    const why = `${missed}: again with ${next.features}.`;
    // Rows that the first run was not judged by.
    return yield* approximately(layer, next, { ...options, seed: seed + 1 }, why, true);
  }
  if (options.method === 'low_rank') throw yield* toleranceMissed(layer, plan, worst, options);
  return { ...(yield* exactly(layer, options, `${missed}: computed exactly.`, true)), plan };
}

function* exactly(
  layer: AttentionLayer,
  { seed }: SolveOptions,
  reason: string,
  fallback: boolean,
): Job<Omit<ForwardSolution, 'plan'>> {
  const { error, ...result } = yield* exactForwardJob(layer, { seed });
  if (yield* finiteJob([result.attentionOutput])) {
    return { result, estimate: error, method: 'exact', reason, fallback };
  }
  return {
    ...(yield* inFloat64(layer)),
    method: 'exact',
    reason: 'The numbers are too large for float32: computed in float64.',
    fallback: true,
  };
}

function* solveForward(
  layer: AttentionLayer,
  { kernel, reason, lowRank }: Choice,
  options: SolveOptions,
): Job<ForwardSolution> {
  if (kernel === 'low_rank' && lowRank) {
    return yield* approximately(layer, lowRank, options, reason);
  }
  if (kernel === 'reference') {
    const solved = yield* inFloat64(layer);
    return { ...solved, method: 'exact', reason, fallback: false, plan: lowRank };
  }
  return { ...(yield* exactly(layer, options, reason, false)), plan: lowRank };
}

/** @throws {Problem} when a tensor is not finite. */
export function* forwardJob(
  layer: AttentionLayer,
  pending: readonly PendingTensor[],
  given: SolveOptions,
  { clock, memory }: Workplace,
): Job<ForwardAnswer> {
  // Attention states have gradients, if gradients are asked for: here they are not.
  const options = { ...given, outputOnly: true, inputGradients: undefined };
  yield* decodePhase(pending, memory);
  clock('decode');
  const choice = yield* choose(layer, options);
  clock('plan');
  const { result, estimate, plan, ...solution } = yield* solveForward(layer, choice, options);
  clock('compute');
  const sent = yield* send(encodeForwardPhase(layer, result, options.encode), {
    attention_output: withoutCertificate(estimate, 'An attention output has none.'),
  });
  clock('encode');
  if (isChecked(options)) requireTolerance(sent, options.tolerance);
  const threshold = efficiencyThreshold(result.headNorms, layer.dims);
  const { method, reason, fallback } = solution;
  return {
    method,
    reason: reason + theoryAndPractice(threshold, method, options.method, plan),
    fallback,
    threshold,
    attention_output: sent.tensors,
    error: sent.error as ForwardAnswer['error'],
    plan: planFigures(plan, method, layer, options),
  };
}
