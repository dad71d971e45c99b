/**
 * A low-rank run as one part: another machine may have it, but it is not cut. The draws of its error estimate are shared
 * out over all heads and batch items by what these carry.
 */
import { type Job, type LargeTask, parts } from '../../job.js';
import type { AttentionLayer, AttentionProblem } from '../../problem.js';
import { type LowRankForwardResult, lowRankForwardJob } from './forward-job.js';
import { type LowRankOptions, type LowRankResult, lowRankJob } from './job.js';
import type { LowRankPlan } from './plan/plan.js';

export interface LowRankPart extends LargeTask<LowRankResult> {
  readonly kernel: 'low_rank';
  readonly step: 'gradient';
  readonly problem: AttentionProblem;
  readonly plan: LowRankPlan;
  readonly options: LowRankOptions;
}

export interface LowRankForwardPart extends LargeTask<LowRankForwardResult> {
  readonly kernel: 'low_rank';
  readonly step: 'forward';
  readonly layer: AttentionLayer;
  readonly plan: LowRankPlan;
  readonly seed: number;
}

export const lowRankOf = ({ problem, plan, options }: LowRankPart) =>
  lowRankJob(problem, plan, options);
export const lowRankForwardOf = ({ layer, plan, seed }: LowRankForwardPart) =>
  lowRankForwardJob(layer, plan, { seed });

export function* lowRankPart(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: LowRankOptions,
): Job<LowRankResult> {
  const task = { kernel: 'low_rank', step: 'gradient', problem, plan, options } as const;
  const [result] = yield* parts<LowRankPart>([{ ...task, flops: plan.flops }], lowRankOf);
  return result!;
}

export function* lowRankForwardPart(
  layer: AttentionLayer,
  plan: LowRankPlan,
  seed: number,
): Job<LowRankForwardResult> {
  const task = { kernel: 'low_rank', step: 'forward', layer, plan, seed } as const;
  const [result] = yield* parts<LowRankForwardPart>(
    [{ ...task, flops: plan.flops }],
    lowRankForwardOf,
  );
  return result!;
}
