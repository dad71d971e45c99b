/** A low-rank run as a job: the chain, the error estimate on fresh rows, the certificate, the correction. */

import type { Job } from '../../job.js';
import {
  type AttentionKind,
  type AttentionProblem,
  PROJECTIONS,
  type ProjectionName,
} from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { frobenius } from '../estimate/estimate.js';
import { allocateInputGradients, type GradientResult, sharedFloat32 } from '../result.js';
import { ROUNDOFF } from './arithmetic/arithmetic.js';
import { chainJob, emptyGradients, tensorOffset } from './chain/chain.js';
import { inputTasks } from './chain/inputs.js';
import { addTail, openTail, type TensorEstimate } from './error/estimate.js';
import { drawRows } from './error/sampled-rows/draw-rows.js';
import { openKeyErrors, openSampledRun, type SampledRun } from './error/sampled-rows/sampled.js';
import { rangesOf } from './error/sampled-rows/sampled-keys.js';
import { fullWidth } from './head/head.js';
import { TENSORS, type TensorName } from './head/layout.js';
import type { LowRankPlan } from './plan/plan.js';
import { type HeadRun, openRun } from './run.js';
import type { LowRankTask } from './task.js';

export interface LowRankOptions {
  readonly seed: number;
  /** Add the estimated error: no bias, at the price of its standard error. */
  readonly correction: boolean;
  /** Compute the certificate. A corrected gradient has none. */
  readonly certificate: boolean;
  readonly attentionOutput: boolean;
  /** Whose gradients are wanted beside those of the adapters; the plan was made for it. */
  readonly inputGradients?: AttentionKind | undefined;
}

export interface TensorError {
  readonly estimate: {
    readonly relative: number;
    readonly upper: number;
    readonly confidence: 0.99;
    readonly standard_error: number;
    readonly rows_sampled: number;
  };
  readonly certificate: { readonly frobenius: number; readonly relative: number } | null;
  /** Why there is none; absent: there is. */
  readonly certificate_reason?: string;
}

export interface LowRankResult extends GradientResult {
  readonly errors: Partial<Record<TensorName, TensorError>>;
  /** Rows whose row sum the features lost. Not zero: the gradients and all error figures are void. */
  readonly lostRows: number;
}

export function* lowRankJob(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: LowRankOptions,
): Job<LowRankResult, LowRankTask> {
  const memory = new Lease();
  try {
    return yield* stages(problem, plan, options, memory);
  } finally {
    memory.end();
  }
}

function* stages(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: LowRankOptions,
  memory: Lease,
): Job<LowRankResult, LowRankTask> {
  const draws = yield* drawRows(problem, plan, options, memory);
  const uncertified = withoutCertificate(plan, options);
  const sampledRuns: SampledRun[] = [];
  const outputs = options.attentionOutput ? allocateOutput(problem) : null;
  const { batch } = problem.dims;
  const item = (b: number) =>
    outputs?.subarray((b * outputs.length) / batch, ((b + 1) * outputs.length) / batch) ?? null;
  const inputGradients = allocateInputGradients(problem, options.inputGradients, sharedFloat32);
  const keyErrors = draws.lists.map((list) => openKeyErrors(plan.heads[0], list.length));
  const sizes = Object.values(emptyGradients(problem)).map(({ length }) => length);
  const tail = openTail(plan.sampledFeatures > 0 ? sizes : sizes.map(() => 0));
  let loss = 0;
  let lostRows = 0;
  const { gradients, certificates } = yield* chainJob(
    problem,
    plan.heads.length,
    (h, memory) =>
      openRun(
        plan.heads[h],
        plan.headPlans[h],
        draws.lists[plan.heads[h].batch],
        item(plan.heads[h].batch),
        memory,
      ),
    { certified: uncertified === null },
    function* (runs: readonly HeadRun[]) {
      for (const run of runs) {
        for (const part of run.loss) loss += part;
        for (const part of run.lostRows) lostRows += part;
      }
      if (inputGradients) {
        yield {
          name: 'inputs',
          tasks: inputTasks(problem, runs, options.inputGradients!, inputGradients),
        };
      }
      const opened = runs.map((run) => openSampledRun(run, keyErrors[run.head.batch], memory));
      for (const step of ['sampled_exact', 'sampled_errors'] as const) {
        yield {
          name: step,
          tasks: opened.flatMap((sampled) =>
            sampled.run.segments.map((_, segment) => ({
              kernel: 'low_rank' as const,
              step,
              sampled,
              segment,
            })),
          ),
        };
      }
      const wideKeys = opened.filter(({ keyErrors }) => keyErrors);
      if (wideKeys.length > 0) {
        // Heads of a batch item share rows of their errors: a task has all heads of some rows.
        yield {
          name: 'sampled_keys',
          tasks: draws.lists.flatMap((list, b) => {
            const sampled = wideKeys.filter(({ run }) => run.head.batch === b);
            if (sampled.length === 0) return [];
            return rangesOf(list.length).map((range) => ({
              ...{ kernel: 'low_rank' as const, step: 'sampled_keys' as const },
              ...{ sampled, range },
            }));
          }),
        };
      }
      // Only what the estimate reads is kept: the memory of the chain goes to the next heads.
      for (const { run, ...rest } of opened) {
        addTail(tail, run);
        const none = new Float64Array(0);
        sampledRuns.push({
          ...rest,
          run: {
            ...run,
            ...{ keySums: [], querySums: [], keyTotal: none, queryTotal: none },
            ...{ outlierRows: [], joinedRows: none, outlierLeft: [], joinedLeft: none },
            ...{ outlierRight: [], tailGradients: [], causal: null, inputs: null },
          },
        });
      }
    },
  );
  const tensors = TENSORS.map((name, t) => ({ name, t, size: gradients[name].length })).filter(
    ({ size }) => size > 0,
  );
  const estimates = (yield {
    name: 'estimate',
    tasks: tensors.map(({ t, size }) => ({
      kernel: 'low_rank' as const,
      step: 'estimate' as const,
      sampled: sampledRuns,
      draws,
      tail: tail[t],
      tensor: t,
      size,
    })),
  }) as TensorEstimate[];
  // A gradient that overflowed has no error figure either.
  const finite = Object.values(gradients).every((g) => g.every(Number.isFinite));
  if (!finite) lostRows = Math.max(lostRows, 1);
  const errors: LowRankResult['errors'] = {};
  tensors.forEach(({ name, t }, i) => {
    const bound = joinHeads(
      plan,
      certificates.map((bounds) => bounds[t]),
      t,
    );
    const rows = draws.draws.length;
    const rounding = plan.outlierQueries > 0 ? ROUNDING_ASIDE : ROUNDING;
    const settings = { rows, rounding, correction: options.correction, uncertified };
    errors[name] = describe(gradients[name], estimates[i], bound, settings);
  });
  const of = (name: ProjectionName) => ({
    lora_A: gradients[`${name}.lora_A`],
    lora_B: gradients[`${name}.lora_B`],
  });
  return {
    gradients: Object.fromEntries(
      PROJECTIONS.filter((name) => problem.projections[name].adapter).map((name) => [
        name,
        of(name),
      ]),
    ),
    sinks: null,
    loss: problem.objective.kind === 'target' ? loss : null,
    attentionOutput: outputs,
    inputGradients,
    norms: plan.norms,
    errors,
    lostRows,
  };
}

/**
 * Rounding that the estimate does not see, since it forms its rows anew: 64 units of float32, several
 * times what the chain was seen to lose against float64. Rows put aside have a softmax that may be
 * saturated, in whose dS nearly everything cancels: 512 units.
 */
const ROUNDING = 64 * ROUNDOFF;
const ROUNDING_ASIDE = 512 * ROUNDOFF;

/** The estimate as the answer shows it; adds the correction if it is wanted. */
function describe(
  gradient: Float64Array,
  estimate: TensorEstimate,
  bound: number | null,
  {
    rows,
    rounding,
    correction,
    uncertified,
  }: {
    readonly rows: number;
    readonly rounding: number;
    readonly correction: boolean;
    readonly uncertified: string | null;
  },
): TensorError {
  if (correction) {
    for (let i = 0; i < gradient.length; i++) gradient[i] += estimate.mean[i];
  }
  const size = frobenius(gradient);
  // A gradient that is zero has no error: all its terms are zero.
  const over = (x: number) => (size > 0 ? x / size : 0);
  const { norm, standardError, limit } = estimate;
  return {
    estimate: {
      relative: over(correction ? standardError : norm),
      upper: over(correction ? limit : norm + limit) + (size > 0 ? rounding : 0),
      confidence: 0.99,
      standard_error: over(standardError),
      rows_sampled: rows,
    },
    ...(bound === null
      ? { certificate: null, certificate_reason: uncertified ?? VOID }
      : { certificate: { frobenius: bound, relative: over(bound) } }),
  };
}

const VOID = 'The worst case is beyond any bound: the features could lose the sum of a row.';

/** Why a run computes no certificate; null: it does. */
function withoutCertificate(plan: LowRankPlan, options: LowRankOptions): string | null {
  if (!options.certificate) return 'It was not asked for: certificate is false.';
  if (options.correction) return 'A corrected gradient has none.';
  const [head] = plan.heads;
  if (fullWidth(head).scores) {
    return 'With rotary positions or input gradients there is none: it is for one number of features.';
  }
  return head.causal ? 'Under a causal mask there is none.' : null;
}

/**
 * Bound of a whole tensor from those of its heads: heads share lora_A and add up; in lora_B each has
 * rows of its own, and only batch items and grouped query heads add up.
 */
function joinHeads(
  plan: LowRankPlan,
  bounds: readonly (number | null)[],
  t: number,
): number | null {
  const perPart = new Map<number, number>();
  for (const [h, bound] of bounds.entries()) {
    if (bound === null) return null;
    const part = tensorOffset(plan.heads[h], t);
    perPart.set(part, (perPart.get(part) ?? 0) + bound);
  }
  let square = 0;
  for (const bound of perPart.values()) square += bound * bound;
  return Math.sqrt(square);
}

function allocateOutput({ dims }: AttentionProblem): Float32Array {
  return sharedFloat32(dims.batch * dims.queryLength * dims.heads * dims.valueDim);
}
