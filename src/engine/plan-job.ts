/** A dry run: the verdict and the plan, without the gradient and without its cost. */
import type { Job } from '../../workers/job.js';
import { referenceNormsJob } from '../../workers/kernels/reference/forward.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import type { PendingTensor } from '../request/intake.js';
import { choose } from '../solver/choose.js';
import { type ChooseOptions, judge, obstacleOf, tryPlan } from '../solver/choose-low-rank.js';
import { planFigures } from '../solver/figures.js';
import type { Workplace } from '../solver/phases.js';
import { efficiencyThreshold, theoryAndPractice } from '../solver/threshold.js';
import { decodePhase } from './decode-phase.js';
import type { GradientAnswer } from './gradient-job.js';

export type PlanAnswer = Pick<GradientAnswer, 'method' | 'reason' | 'threshold' | 'plan'>;

export function* planJob(
  problem: AttentionLayer & Partial<AttentionProblem>,
  pending: readonly PendingTensor[],
  options: ChooseOptions,
  { clock, memory }: Workplace,
): Job<PlanAnswer> {
  yield* decodePhase(pending, memory);
  clock('decode');
  const choice = yield* choose(problem, options);
  // Asked for a plan, we make one also where a gradient would do without.
  const wanted =
    choice.lowRank === null && options.method !== 'sampled' && !obstacleOf(problem, options);
  const plan = wanted ? (yield* tryPlan(problem, options)).plan : choice.lowRank;
  const headNorms = plan ? plan.headNorms : yield* referenceNormsJob(problem);
  clock('plan');
  const method = choice.kernel === 'reference' ? 'exact' : choice.kernel;
  const threshold = efficiencyThreshold(headNorms, problem.dims);
  const judged = plan && options.method === 'auto' && method !== 'sampled';
  const reason = judged ? judge(plan, options).reason : choice.reason;
  return {
    method,
    reason: reason + theoryAndPractice(threshold, method, options.method, plan),
    threshold,
    plan: planFigures(plan, method, problem, options, choice.sampled?.plan),
  };
}
