/** LoRA gradients by features, as a job: runs of the parts of a problem, then the figures of its error. */
import { type Job, type LargeTask, parts, stage } from '../../job.js';
import type { AttentionProblem } from '../../problem.js';
import { frobenius } from '../estimate/estimate.js';
import type { BlocksTask } from '../parts/blocks.js';
import type { Cut } from '../parts/cut.js';
import { joinGradients, joinTensor, type Placed, placed } from '../parts/join.js';
import { seedOf, takeParts } from '../parts/take.js';
import { type GradientResult, sharedFloat32, sharedFloat64, tensorsOf } from '../result.js';
import { joinEstimates } from './error/tensor-estimate.js';
import { TENSORS, type TensorName } from './head/tensors.js';
import { cutByPlan, headsOfPart, type PartPlan, planOfPart } from './part.js';
import type { LowRankPlan } from './plan/plan.js';
import { type LowRankOptions, type LowRankSums, lowRankSums, type RunTask } from './sums.js';
import { type TensorError, tensorError, withoutCertificate } from './tensor-error.js';

export type { TensorError };

export interface LowRankResult extends GradientResult {
  readonly errors: Partial<Record<TensorName, TensorError>>;
  /** Rows whose row sum the features lost. Not zero: the gradients and all error figures are void. */
  readonly lostRows: number;
}

/** A part of a problem with the plan of its heads. It may run on another machine. */
export interface LowRankPart extends LargeTask<LowRankSums> {
  readonly kernel: 'low_rank';
  readonly step: 'sums';
  readonly problem: AttentionProblem;
  readonly plan: PartPlan;
  readonly options: LowRankOptions;
}

export function* lowRankOf({ problem, plan, options }: LowRankPart): Job<LowRankSums> {
  const wanted = options.inputGradients !== undefined;
  const heads = yield* headsOfPart(problem, plan, wanted);
  return yield* lowRankSums(problem, { ...plan, heads }, options);
}

/** All of a problem without a cut. */
export function* lowRankJob(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: LowRankOptions,
): Job<LowRankResult, RunTask> {
  return measured(plan, options, yield* lowRankSums(problem, plan, options));
}

/** The cut follows from the problem and its plan alone: the answer is the same wherever the parts run. */
export function* lowRankParts(
  problem: AttentionProblem,
  plan: LowRankPlan,
  options: LowRankOptions,
  cuts: readonly Cut[] = cutByPlan(problem, plan, {
    gradients: true,
    inputGradients: options.inputGradients !== undefined,
  }),
): Job<LowRankResult, LowRankPart | BlocksTask> {
  const taken = yield* takeParts(problem, cuts);
  const tasks = taken.map(
    (part, k): LowRankPart => ({
      ...{ kernel: 'low_rank', step: 'sums', problem: part },
      ...planOfPart(problem, plan, cuts, k),
      options: { ...options, seed: seedOf(options.seed, k) },
    }),
  );
  const sums = yield* parts(tasks, lowRankOf);
  return measured(plan, options, yield* joinSums(problem, options, cuts, sums));
}

function* joinSums(
  problem: AttentionProblem,
  options: LowRankOptions,
  cuts: readonly Cut[],
  sums: readonly LowRankSums[],
): Job<LowRankSums, BlocksTask> {
  if (sums.length === 1) return sums[0]!;
  const all = placed(problem, cuts, sums);
  const joined = yield* joinGradients(problem, options, all, sharedFloat32);
  return {
    ...joined,
    estimates: yield* joinErrors(problem, joined, all),
    // Parts follow each other as their heads do.
    certificates: sums.flatMap(({ certificates }) => certificates),
    draws: sums.reduce((n, { draws }) => n + draws, 0),
    lostRows: sums.reduce((n, { lostRows }) => n + lostRows, 0),
  };
}

/** The estimated errors of the parts add up as their gradients do. */
function* joinErrors(
  problem: AttentionProblem,
  totals: GradientResult,
  all: readonly Placed<LowRankSums>[],
): Job<LowRankSums['estimates'], BlocksTask> {
  const found: LowRankSums['estimates'] = {};
  const tasks = tensorsOf(totals).map(([name, total]) => {
    const of = ({ estimates }: LowRankSums) => estimates[name as TensorName]!;
    const mean = sharedFloat64(total.length);
    const estimates = all.map(({ result }) => of(result));
    found[name as TensorName] = joinEstimates(estimates, mean);
    return joinTensor(problem, name, mean, all, (sums) => of(sums).mean);
  });
  yield* stage('join', tasks);
  return found;
}

/** Adds the error figures to the sums: what the draws say about each gradient. */
function measured(
  plan: LowRankPlan,
  options: LowRankOptions,
  { estimates, certificates, draws, lostRows, loss, ...result }: LowRankSums,
): LowRankResult {
  const circumstances = {
    ...{ rows: draws, correction: options.correction },
    uncertified: withoutCertificate(plan, options),
  };
  const errors: LowRankResult['errors'] = {};
  let finite = true;
  for (const [name, gradient] of tensorsOf(result) as [TensorName, Float64Array][]) {
    const t = TENSORS.indexOf(name);
    const bounds = certificates.map((ofHead) => ofHead[t]!);
    const size = frobenius(gradient);
    finite &&= Number.isFinite(size);
    errors[name] = tensorError(plan, t, size, estimates[name]!, bounds, circumstances);
  }
  return {
    ...result,
    loss: plan.heads[0]!.kind === 'target' ? loss : null,
    errors,
    // A gradient that overflowed has no error figure either.
    lostRows: finite ? lostRows : Math.max(lostRows, 1),
  };
}
