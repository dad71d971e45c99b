/** A sampled run as one part: another machine may have it. */
import { type Job, type LargeTask, parts } from '../../job.js';
import type { AttentionProblem } from '../../problem.js';
import { type SampledOptions, type SampledResult, sampledJob } from './job.js';
import type { SampledPlan } from './plan/plan.js';

export interface SampledPart extends LargeTask<SampledResult> {
  readonly kernel: 'sampled';
  readonly step: 'gradient';
  readonly problem: AttentionProblem;
  readonly plan: SampledPlan;
  readonly options: SampledOptions;
}

export const sampledOf = ({ problem, plan, options }: SampledPart) =>
  sampledJob(problem, plan, options);

export function* sampledPart(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: SampledOptions,
): Job<SampledResult> {
  const task = { kernel: 'sampled', step: 'gradient', problem, plan, options } as const;
  const [result] = yield* parts<SampledPart>([{ ...task, flops: plan.work }], sampledOf);
  return result!;
}
