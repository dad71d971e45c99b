/** The plan as the answer shows it. */
import { exactFlops, exactWork } from '../../workers/kernels/exact/cost.js';
import type { LowRankPlan } from '../../workers/kernels/low-rank/plan/plan.js';
import type { SampledPlan } from '../../workers/kernels/sampled/plan/plan.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import { type ChooseOptions, needsOf } from './choose-low-rank.js';

export interface PlanFigures {
  /** m, number of low-rank features; the largest over the heads. null: nothing was planned. */
  readonly features: number | null;
  readonly max_degree: number | null;
  /** Rows computed exactly, over all heads. */
  readonly outlier_queries: number | null;
  readonly outlier_keys: number | null;
  /** Floating-point operations of the kernel that was used, or would be. */
  readonly flops: number;
  readonly exact_flops: number;
  /** Length from which low-rank is cheaper on this machine; null: never, or nothing was planned. */
  readonly break_even_length: number | null;
  /** Upper limit of the relative error to expect of low-rank. */
  readonly predicted_error: number | null;
  /** Milliseconds to expect on one thread. */
  readonly expected_ms: {
    readonly exact: number;
    readonly low_rank: number | null;
    /** The part of low_rank that grows with L; the rest grows with L^2. */
    readonly low_rank_linear: number | null;
    readonly sampled: number | null;
    readonly sampled_linear: number | null;
  };
  /** Draws of far keys; null: nothing was planned. */
  readonly sampled: {
    readonly keys: number;
    readonly coordinates: readonly number[];
    readonly levels: 1;
    readonly predicted_error: number;
    readonly tried: readonly {
      readonly keys: number;
      readonly error: number;
      readonly ms: number;
    }[];
  } | null;
  /** Numbers of features that the plan looked at; empty: nothing was planned. */
  readonly tried: readonly {
    readonly features: number;
    readonly error: number | null;
    readonly ms: number;
  }[];
}

export function planFigures(
  plan: LowRankPlan | null,
  used: 'exact' | 'low_rank' | 'sampled',
  problem: AttentionLayer & Partial<AttentionProblem>,
  options: ChooseOptions,
  sampled: SampledPlan | null = null,
): PlanFigures {
  const needs = needsOf(problem, options);
  const flops = exactFlops(problem, needs);
  const milliseconds = (work: number) => (1000 * work) / options.rates.exact;
  return {
    features: plan?.features ?? null,
    max_degree: plan?.maxDegree ?? null,
    outlier_queries: plan?.outlierQueries ?? null,
    outlier_keys: plan?.outlierKeys ?? null,
    flops: used === 'low_rank' && plan ? plan.flops : used === 'sampled' ? sampled!.work : flops,
    exact_flops: flops,
    break_even_length: plan?.breakEvenLength ?? null,
    predicted_error: plan?.predictedError ?? null,
    expected_ms: {
      exact: milliseconds(exactWork(problem, needs, options.rates.pairs)),
      low_rank: plan ? 1000 * plan.seconds.lowRank : null,
      low_rank_linear: plan ? 1000 * plan.seconds.lowRankLinear : null,
      sampled: sampled && milliseconds(sampled.work),
      sampled_linear: sampled && milliseconds(sampled.linearWork),
    },
    sampled: sampled && {
      keys: sampled.keys,
      coordinates: sampled.heads.map(({ coordinates }) => coordinates),
      levels: 1,
      predicted_error: sampled.predictedError,
      tried: sampled.tried.map(({ keys, error, work }) => ({
        ...{ keys, error },
        ms: milliseconds(work),
      })),
    },
    tried: (plan?.tried ?? []).map(({ features, error, seconds }) => ({
      features,
      error: Number.isFinite(error) ? error : null,
      ms: 1000 * seconds,
    })),
  };
}
