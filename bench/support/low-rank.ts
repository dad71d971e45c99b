/** The low-rank kernel as the questions of the benchmark run it, and how wrong it is. */

import type { WorkerPool } from '../../src/pool/worker-pool.js';
import { efficiencyThreshold } from '../../src/solver/threshold.js';
import { distance, norm } from '../../test/kernels/run.js';
import type { Job } from '../../workers/job.js';
import { exactJob } from '../../workers/kernels/exact/gradient.js';
import { TENSORS, type TensorName } from '../../workers/kernels/low-rank/head/tensors.js';
import {
  type LowRankResult,
  lowRankJob,
  type TensorError,
} from '../../workers/kernels/low-rank/job.js';
import {
  type LowRankPlan,
  type PlanOptions,
  planLowRank,
} from '../../workers/kernels/low-rank/plan/plan.js';
import { referenceJob } from '../../workers/kernels/reference/gradient.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionProblem } from '../../workers/problem.js';

/** Stages of a low-rank run that make the gradient; the others estimate. */
const CHAIN = ['keys', 'queries', 'join', 'left', 'gradients'];

export interface LowRankRun {
  readonly plan: LowRankPlan;
  readonly result: LowRankResult;
  readonly seconds: number;
  /** Of them. */
  readonly planSeconds: number;
  readonly estimateSeconds: number;
}

const SEED = 1;

function* clocked<R>(job: Job<R>, book: (stage: string, seconds: number) => void): Job<R> {
  let step = job.next([]);
  while (!step.done) {
    const start = performance.now();
    const results = yield step.value;
    book(step.value.name, (performance.now() - start) / 1000);
    step = job.next(results);
  }
  return step.value;
}

export function run<R>(pool: WorkerPool, job: Job<R>): Promise<R> {
  return pool.run(job, { signal: new AbortController().signal });
}

/** Plan, chain and estimate; the certificate, as in a request, if it is asked for. */
export async function lowRank(
  pool: WorkerPool,
  problem: AttentionProblem,
  {
    certificate = false,
    ...options
  }: Omit<PlanOptions, 'seed' | 'rates'> & { readonly certificate?: boolean },
): Promise<LowRankRun> {
  const start = performance.now();
  const plan = await run(pool, planLowRank(problem, { seed: SEED, rates: pool.rates, ...options }));
  const planned = performance.now();
  const settings = { correction: false, certificate, attentionOutput: false };
  let chainSeconds = 0;
  const result = await run(
    pool,
    clocked(lowRankJob(problem, plan, { seed: SEED, ...settings }), (stage, seconds) => {
      if (CHAIN.includes(stage)) chainSeconds += seconds;
    }),
  );
  const end = performance.now();
  return {
    plan,
    result,
    seconds: (end - start) / 1000,
    planSeconds: (planned - start) / 1000,
    // Drawn features run through the chain beside those that make the gradient.
    estimateSeconds:
      (end - planned) / 1000 -
      chainSeconds * (plan.features / (plan.features + plan.sampledFeatures)),
  };
}

/** The true gradients: in float64, slowly. */
export function reference(pool: WorkerPool, problem: AttentionProblem): Promise<GradientResult> {
  return run(pool, referenceJob(problem, { attentionOutput: false }));
}

/** The true gradients up to rounding of float32: for long inputs, where errors of 1e-6 do not matter. */
export function exact(pool: WorkerPool, problem: AttentionProblem): Promise<GradientResult> {
  return run(pool, exactJob(problem, { attentionOutput: false }));
}

export interface TensorComparison {
  readonly name: TensorName;
  /** Frobenius norms of the difference, of the answer and of the truth. */
  readonly error: number;
  readonly answer: number;
  readonly truth: number;
}

type Gradients = Pick<GradientResult, 'gradients'>;

/** Every tensor of an adapter. */
export function compare(answer: Gradients, truth: Gradients): TensorComparison[] {
  return TENSORS.flatMap((name) => {
    const [projection, part] = name.split('.') as ['q_proj', 'lora_A'];
    const [x, y] = [answer, truth].map(({ gradients }) => gradients[projection]?.[part]);
    return x && y ? [{ name, error: distance(x, y), answer: norm(x), truth: norm(y) }] : [];
  });
}

/** Largest relative error of a gradient tensor. */
export function trueError(answer: Gradients, truth: Gradients): number {
  return Math.max(...compare(answer, truth).map(({ error, truth }) => error / truth));
}

/** The worst of the figures that an answer states; a certificate only where no tensor's is void. */
export function statedErrors(errors: Readonly<Record<string, TensorError>>): {
  readonly upper: number;
  readonly certificate?: number;
} {
  const all = Object.values(errors);
  const certificates = all.map(({ certificate }) => certificate?.relative ?? Infinity);
  const worst = Math.max(...certificates);
  return {
    upper: Math.max(...all.map(({ estimate }) => estimate.upper)),
    ...(Number.isFinite(worst) && { certificate: worst }),
  };
}

/** Gamma over sqrt(ln L). */
export function thresholdRatio({ headNorms }: GradientResult, { dims }: AttentionProblem): number {
  return efficiencyThreshold(headNorms, dims).ratio ?? Number.NaN;
}

export function percent(x: number | undefined): string {
  if (x === undefined || !Number.isFinite(x)) return '';
  const value = 100 * x;
  return value >= 1e-3 ? `${Number(value.toPrecision(2))} %` : `${value.toExponential(0)} %`;
}
