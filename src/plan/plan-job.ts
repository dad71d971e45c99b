/** A dry run: the verdict and the plan, without the gradient and without its cost. */
import type { Job } from '../../workers/kernels/job.js';
import { referenceNormsJob } from '../../workers/kernels/reference/heads.js';
import type { PendingTensor } from '../lora/intake.js';
import type { AttentionLayer } from '../lora/problem.js';
import { efficiencyThreshold } from '../lora/threshold.js';
import { referenceFlops } from './cost.js';
import { decodePhase, type GradientAnswer, type PhaseTimes, phaseClock } from './gradient-job.js';

export type PlanAnswer = Pick<GradientAnswer, 'method' | 'reason' | 'threshold' | 'plan'>;

export function* planJob(
  layer: AttentionLayer,
  pending: readonly PendingTensor[],
  times: PhaseTimes,
): Job<PlanAnswer> {
  const clock = phaseClock(times);
  yield* decodePhase(pending);
  clock('decode');
  const norms = yield* referenceNormsJob(layer);
  clock('plan');
  const flops = referenceFlops(layer);
  return {
    method: 'exact',
    reason: 'The exact kernel computes every problem in float64.',
    threshold: efficiencyThreshold(norms, layer.dims),
    plan: { flops, exact_flops: flops },
  };
}
