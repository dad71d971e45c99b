/** The sampled kernel: whether it takes a problem, its plan, its run, and what follows when its answer will not do. */
import { type Job, NumericError } from '../../workers/job.js';
import type { ErrorEstimate } from '../../workers/kernels/estimate/estimate.js';
import { exactWork } from '../../workers/kernels/exact/cost.js';
import { sampledParts } from '../../workers/kernels/sampled/job.js';
import { mostKeys, type SampledPlan } from '../../workers/kernels/sampled/plan/plan.js';
import { type Planned, planSampled } from '../../workers/kernels/sampled/plan/stages.js';
import type { AttentionLayer, AttentionProblem } from '../../workers/problem.js';
import { Problem } from '../errors.js';
import {
  type ChooseOptions,
  MAX_LOW_RANK_HEADS,
  MAX_LOW_RANK_WIDTH,
  needsOf,
  toleranceOfPlan,
} from './choose-low-rank.js';
import { exactly } from './exactly.js';
import { requirePrecision, withoutCertificate } from './send.js';
import {
  inputErrors,
  overflowed,
  type Solution,
  type Solved,
  type SolveOptions,
  sent,
} from './solution.js';

type Layer = AttentionLayer & Partial<AttentionProblem>;

/** Why the sampled kernel does not compute what is asked for, in one sentence; null: it does. */
export function sampledObstacle(layer: Layer, { outputOnly }: ChooseOptions): string | null {
  if (outputOnly) return 'Sampled computes gradients, not the output alone.';
  const { objective, known } = layer;
  // G = O - Y by a drawn O: its error enters G.O squared, and does not average out.
  if (objective?.kind === 'target' && !known?.output) {
    return 'Sampled takes grad_output; a target takes the whole attention output, which is exact.';
  }
  if (!objective) return 'Sampled is planned with grad_output.';
  const { batch, heads, headDim, valueDim, keyLength } = layer.dims;
  if (Math.max(headDim, valueDim) > MAX_LOW_RANK_WIDTH) {
    return `Sampled takes heads of up to ${MAX_LOW_RANK_WIDTH} columns.`;
  }
  if (batch * heads > MAX_LOW_RANK_HEADS) {
    return `Sampled takes up to ${MAX_LOW_RANK_HEADS} heads of all batch items together.`;
  }
  const most = mostKeys(layer.dims);
  return keyLength > most ? `Sampled takes up to ${most} keys of heads of this width.` : null;
}

/** Whether each gradient that is asked for has an error figure. */
export const isMeasured = ({ projections }: AttentionLayer, { inputGradients }: ChooseOptions) =>
  inputGradients === undefined || projections.q_proj.weight === null;

/** The plan, or why none can be made: numbers of the input that overflow in its algebra. */
export function* trySampled(
  problem: AttentionProblem,
  options: ChooseOptions,
): Job<{ readonly planned: Planned } | { readonly planned: null; readonly reason: string }> {
  const { keys, seed, attentionOutput, inputGradients } = options;
  try {
    const planned = yield* planSampled(problem, {
      ...{ keys, seed, attentionOutput, inputGradients },
      tolerance: toleranceOfPlan(problem, options),
      needs: needsOf(problem, options),
    });
    return { planned };
  } catch (error) {
    if (!(error instanceof NumericError)) throw error;
    return { planned: null, reason: `Sampled cannot plan for this input. ${error.message}` };
  }
}

/** Seconds on one thread of the sampled and of the exact kernel. */
export function sampledSeconds(
  problem: AttentionProblem,
  plan: SampledPlan,
  options: ChooseOptions,
) {
  const { exact: rate } = options.rates;
  return {
    sampled: plan.work / rate,
    exact: exactWork(problem, needsOf(problem, options), options.rates.pairs) / rate,
  };
}

/**
 * @param second This plan was made since another one did not keep its promise.
 * @throws {Problem} when sampled was asked for and cannot keep what was promised.
 */
export function* bySampling(
  problem: AttentionProblem,
  planned: Planned,
  options: SolveOptions,
  reason: string,
  second = false,
): Job<Solution> {
  const { plan } = planned;
  const { seed, attentionOutput, inputGradients, tolerance, method, keys } = options;
  const run = yield* sampledParts(problem, plan, { seed, attentionOutput, inputGradients });
  const { errors, ...result } = run;
  const broken = yield* overflowed(result);
  const solved = broken ? null : yield* sentRun(problem, result, errors, options);
  const worst = solved?.worst ?? Number.POSITIVE_INFINITY;
  const unchecked = keys !== undefined && !options.toleranceStated;
  if (solved && (worst <= tolerance || unchecked)) {
    return { ...solved, method: 'sampled', reason, fallback: false, plan: null, sampled: plan };
  }
  if (solved) requirePrecision(solved.rounded, tolerance);
  const missed = `Sampled with ${plan.keys} keys drawn for a block gave ${reached(worst)}, above the tolerance of ${tolerance}`;
  const next =
    second || keys !== undefined ? null : yield* planned.stricter(stricter(plan, worst, options));
  if (next?.meetsTolerance && pays(problem, next, options)) {
    const why = `${missed}: again with ${next.keys}.`;
    const again = { ...planned, plan: next };
    return yield* bySampling(problem, again, { ...options, seed: seed + 1 }, why, true);
  }
  if (method === 'sampled') {
    throw new Problem('tolerance-missed', `${missed}. The exact kernel always keeps it.`, {
      pointer: '/method',
      ...(Number.isFinite(worst) && { limit: tolerance, actual: worst }),
    });
  }
  const exact = yield* exactly(problem, options, `${missed}: computed exactly.`, true);
  return { ...exact, plan: null, sampled: plan };
}

/** Of the tolerance that a second plan is held to: room for its own bad luck. */
const MARGIN = 0.8;

/** A plan that was too hopeful once is held to as much more, and some. */
function stricter(
  { predictedError }: SampledPlan,
  worst: number,
  { tolerance }: ChooseOptions,
): number {
  // A plan's error is relative to the norm of the answer, that of an answer to that of the true gradient.
  const found = Number.isFinite(worst) ? worst / (1 + worst) : 1;
  const hopeful = Math.min(1, predictedError / found);
  return (MARGIN * hopeful * tolerance) / (1 + tolerance);
}

const reached = (worst: number) =>
  Number.isFinite(worst) ? `an error of up to ${worst.toPrecision(2)}` : 'no result';

/** Whether a plan is cheaper than the exact kernel, where that is allowed. */
function pays(problem: AttentionProblem, plan: SampledPlan, options: ChooseOptions): boolean {
  const seconds = sampledSeconds(problem, plan, options);
  return options.method === 'sampled' || seconds.sampled < seconds.exact;
}

function* sentRun(
  problem: AttentionProblem,
  result: Solution['result'],
  errors: Readonly<Record<string, ErrorEstimate>>,
  options: SolveOptions,
): Job<Solved> {
  const measured = Object.fromEntries(
    Object.entries(errors).map(([name, estimate]) => [
      name,
      withoutCertificate(estimate, 'A sampled answer has none.'),
    ]),
  );
  return yield* sent(
    problem,
    { result, error: { ...inputErrors(problem, result), ...measured } },
    options,
  );
}
