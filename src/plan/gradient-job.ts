/** One gradient request as a job: decode, solve, encode. */
import type { Job } from '../../workers/kernels/job.js';
import type { PendingTensor } from '../lora/intake.js';
import type { AttentionProblem } from '../lora/problem.js';
import { efficiencyThreshold, type Threshold } from '../lora/threshold.js';
import { choose } from './choose.js';
import { exactFlops } from './cost.js';
import { decodePhase } from './decode-phase.js';
import { type EncodedResult, type EncodeOptions, encodePhase } from './encode-phase.js';
import { type PlanFigures, planFigures } from './figures.js';
import { type PhaseTimes, phaseClock } from './phases.js';
import { type Solution, type SolveOptions, solve } from './solve.js';

export interface GradientAnswer
  extends EncodedResult,
    Pick<Solution, 'method' | 'reason' | 'fallback' | 'error'> {
  readonly loss?: number;
  readonly threshold: Threshold;
  readonly plan: PlanFigures;
}

/**
 * @param times filled in as the phases pass.
 * @throws {Problem} when a tensor is not finite.
 */
export function* gradientJob(
  problem: AttentionProblem,
  pending: readonly PendingTensor[],
  options: SolveOptions & EncodeOptions,
  times: PhaseTimes,
): Job<GradientAnswer> {
  const clock = phaseClock(times);
  yield* decodePhase(pending);
  clock('decode');
  const choice = yield* choose(problem, options);
  clock('plan');
  const { result, ...solution } = yield* solve(problem, choice, options);
  clock('compute');
  const tensors = yield* encodePhase(problem, result, options);
  clock('encode');
  const formsOutput = options.attentionOutput || problem.objective.kind === 'target';
  return {
    ...tensors,
    ...(result.loss !== null && { loss: result.loss }),
    ...solution,
    threshold: efficiencyThreshold(result.norms, problem.dims),
    plan: planFigures(
      choice.lowRank,
      solution.method,
      exactFlops(problem, formsOutput),
      options.rates.exact,
    ),
  };
}
