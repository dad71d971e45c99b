/** A dry run: the verdict and the plan, without the gradient and without its cost. */
import type { Job } from '../../workers/kernels/job.js';
import { referenceNormsJob } from '../../workers/kernels/reference/heads.js';
import type { PendingTensor } from '../lora/intake.js';
import type { AttentionLayer } from '../lora/problem.js';
import { efficiencyThreshold } from '../lora/threshold.js';
import { exactFlops } from './cost.js';
import { decodePhase } from './decode-phase.js';
import type { GradientAnswer } from './gradient-job.js';
import { type PhaseTimes, phaseClock } from './phases.js';
import { choose } from './solve.js';

export type PlanAnswer = Pick<GradientAnswer, 'method' | 'reason' | 'threshold' | 'plan'>;

export interface PlanOptions {
  readonly tolerance: number;
  /** Whether the gradient would need the attention output. */
  readonly formsOutput: boolean;
}

export function* planJob(
  layer: AttentionLayer,
  pending: readonly PendingTensor[],
  { tolerance, formsOutput }: PlanOptions,
  times: PhaseTimes,
): Job<PlanAnswer> {
  const clock = phaseClock(times);
  yield* decodePhase(pending);
  clock('decode');
  const norms = yield* referenceNormsJob(layer);
  clock('plan');
  const flops = exactFlops(layer, formsOutput);
  const { method, reason } = choose(tolerance);
  return {
    method,
    reason,
    threshold: efficiencyThreshold(norms, layer.dims),
    plan: { flops, exact_flops: flops },
  };
}
