/** One gradient request as a job: decode, solve, encode. */
import type { Job } from '../../workers/job.js';
import type { AttentionProblem } from '../../workers/problem.js';
import type { PendingTensor } from '../request/intake.js';
import { choose } from '../solver/choose.js';
import { decodePhase } from '../solver/decode-phase.js';
import type { EncodedResult } from '../solver/encode-phase.js';
import { type PlanFigures, planFigures } from '../solver/figures.js';
import type { Workplace } from '../solver/phases.js';
import { type Solution, type SolveOptions, solve } from '../solver/solve.js';
import { efficiencyThreshold, type Threshold, theoryAndPractice } from '../solver/threshold.js';

export interface GradientAnswer
  extends EncodedResult,
    Pick<Solution, 'method' | 'reason' | 'fallback' | 'error'> {
  readonly loss?: number;
  readonly threshold: Threshold;
  readonly plan: PlanFigures;
}

/** @throws {Problem} when a tensor is not finite. */
export function* gradientJob(
  problem: AttentionProblem,
  pending: readonly PendingTensor[],
  options: SolveOptions,
  { clock, memory }: Workplace,
): Job<GradientAnswer> {
  yield* decodePhase(pending, memory);
  clock('decode');
  const choice = yield* choose(problem, options);
  clock('plan');
  const { result, plan, tensors, ...solution } = yield* solve(problem, choice, {
    ...options,
    clock,
  });
  clock('compute');
  const { method, reason, fallback, error } = solution;
  const threshold = efficiencyThreshold(result.headNorms, problem.dims);
  return {
    // The verdict first, for those who read the answer.
    method,
    reason: reason + theoryAndPractice(threshold, method, options.method, plan),
    fallback,
    threshold,
    ...(result.loss !== null && { loss: result.loss }),
    ...tensors,
    error,
    plan: planFigures(plan, method, problem, options),
  };
}
