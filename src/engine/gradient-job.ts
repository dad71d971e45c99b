/** One gradient request as a job: decode, solve, encode. */
import { type Job, within } from '../../workers/job.js';
import type { AttentionProblem } from '../../workers/problem.js';
import type { PendingTensor } from '../request/intake.js';
import { choose } from '../solver/choose.js';
import type { EncodedResult } from '../solver/encode-phase.js';
import { type PlanFigures, planFigures } from '../solver/figures.js';
import type { Workplace } from '../solver/phases.js';
import type { Solution, SolveOptions } from '../solver/solution.js';
import { solve } from '../solver/solve.js';
import { efficiencyThreshold, type Threshold, theoryAndPractice } from '../solver/threshold.js';
import { decodePhase } from './decode-phase.js';

export interface GradientAnswer
  extends EncodedResult,
    Pick<Solution, 'method' | 'reason' | 'fallback' | 'error'> {
  readonly loss?: number;
  /** Whose errors those of a sampled answer are. */
  readonly error_of?: 'weights' | 'gradients';
  readonly threshold: Threshold;
  readonly plan: PlanFigures;
}

const errorOf = ({ projectedFrom }: AttentionProblem) => {
  const known = projectedFrom?.query ?? projectedFrom?.key ?? projectedFrom?.value;
  return known ? 'weights' : 'gradients';
};

/** Which part of the progress each is. */
const SPANS = { choose: [0, 0.1], solve: [0.1, 1] } as const;

/** @throws {Problem} when a tensor is not finite. */
export function* gradientJob(
  problem: AttentionProblem,
  pending: readonly PendingTensor[],
  options: SolveOptions,
  { clock, memory }: Workplace,
): Job<GradientAnswer> {
  yield* decodePhase(pending, memory);
  clock('decode');
  const choice = yield* within(SPANS.choose, choose(problem, options));
  clock('plan');
  const { result, plan, sampled, tensors, ...solution } = yield* within(
    SPANS.solve,
    solve(problem, choice, { ...options, clock }),
  );
  clock('compute');
  const { method, reason, fallback, error } = solution;
  const threshold = efficiencyThreshold(result.headNorms, problem.dims);
  return {
    // The verdict first: people read the answer, too.
    method,
    reason: reason + theoryAndPractice(threshold, method, options.method, plan),
    fallback,
    threshold,
    ...(result.loss !== null && { loss: result.loss }),
    ...tensors,
    error,
    ...(method === 'sampled' && { error_of: errorOf(problem) }),
    plan: planFigures(plan, method, problem, options, sampled),
  };
}
