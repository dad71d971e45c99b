/** The sampled kernel: whether it takes a problem, its plan, its run, and what follows when its answer misses the tolerance. */
import { type Job, NumericError } from '../../workers/job.js';
import { exactWork } from '../../workers/kernels/exact/cost.js';
import { roundingOfWeights, type SampledResult } from '../../workers/kernels/sampled/answer.js';
import { sampledParts, toppedUp } from '../../workers/kernels/sampled/job.js';
import { mostKeys, type SampledPlan } from '../../workers/kernels/sampled/plan/plan.js';
import {
  type Affords,
  findSampled,
  type Planned,
  planSampled,
} from '../../workers/kernels/sampled/plan/stages.js';
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
import { type RoundingOf, requirePrecision, withoutCertificate } from './send.js';
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
  // With G = O - Y the error of a drawn O enters G.O squared, and does not average out.
  if (objective?.kind === 'target' && !known?.output) {
    return 'Sampled needs grad_output, or attention_output beside a target: else the whole output has to be computed.';
  }
  if (!objective) return 'Sampled can be planned only with grad_output.';
  // A row whose largest key is not drawn would be all sink.
  if (layer.sinks && !known?.logSumExp) return 'With sinks sampled needs log_sum_exp.';
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

/**
 * The plan, or why there is none: it is not expected to pay, or numbers of the input overflow in its algebra.
 *
 * @param affords null: it is made whatever it costs.
 */
export function* trySampled(
  problem: AttentionProblem,
  options: ChooseOptions,
  affords: Affords | null,
): Job<{ readonly planned: Planned } | { readonly planned: null; readonly reason: string }> {
  const { keys, seed, attentionOutput, inputGradients } = options;
  try {
    const what = {
      ...{ keys, seed, attentionOutput, inputGradients },
      tolerance: toleranceOfPlan(problem, options),
      needs: needsOf(problem, options),
    };
    const planned = affords
      ? yield* findSampled(problem, what, affords)
      : yield* planSampled(problem, what);
    return planned ? { planned } : { planned, reason: 'Drawn keys are not expected to pay.' };
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
 * An answer that misses its tolerance is topped up by a second run with draws of its own.
 *
 * @throws {Problem} when sampled was asked for and cannot keep what was promised.
 */
export function* bySampling(
  problem: AttentionProblem,
  planned: Planned,
  options: SolveOptions,
  reason: string,
): Job<Solution> {
  const { seed, attentionOutput, inputGradients, tolerance, keys, toleranceStated } = options;
  const { plan } = planned;
  const wanted = { attentionOutput, inputGradients };
  const run = yield* sampledParts(problem, plan, { ...wanted, seed });
  const once = yield* tried(problem, run, plan, options);
  const unchecked = keys !== undefined && !toleranceStated;
  if (once.solved && (once.worst <= tolerance || unchecked))
    return answer(once.solved, plan, reason);
  if ((once.solved?.rounded?.relative ?? 0) > tolerance) {
    // More draws do not help. Exact may keep the tolerance: its figures are not those of the weights.
    if (options.method === 'sampled') requirePrecision(once.solved!.rounded, tolerance);
    return yield* instead(problem, once, options);
  }
  const more = keys === undefined ? yield* moreDraws(problem, planned, once, options) : null;
  if (!more) return yield* instead(problem, once, options);
  const both = yield* toppedUp(problem, run, more, { ...wanted, seed: seed + 1 });
  const twice = yield* tried(problem, both, bothOf(plan, more), options);
  if (!twice.solved || twice.worst > tolerance) return yield* instead(problem, twice, options);
  const draws = more.keys > 0 ? `${more.keys} more were drawn` : 'all keys were taken';
  return answer(twice.solved, twice.plan, `${missed(once, options)}: ${draws}.`);
}

const answer = (solved: Solved, sampled: SampledPlan, reason: string): Solution => ({
  ...solved,
  ...{ method: 'sampled', reason, fallback: false, plan: null, sampled },
});

/** A run as it would be sent. */
interface Tried {
  /** null: numbers that overflowed. */
  readonly solved: Solved | null;
  /** Largest upper limit of an error. */
  readonly worst: number;
  readonly plan: SampledPlan;
}

function* tried(
  problem: AttentionProblem,
  run: SampledResult,
  plan: SampledPlan,
  options: SolveOptions,
): Job<Tried> {
  const { errors, measured: _, ...result } = run;
  if (yield* overflowed(result)) return { solved: null, worst: Number.POSITIVE_INFINITY, plan };
  const measured = Object.fromEntries(
    Object.entries(errors).map(([name, estimate]) => [
      name,
      withoutCertificate(estimate, 'A sampled answer has none.'),
    ]),
  );
  const error = { ...inputErrors(problem, result), ...measured };
  const roundingOf: RoundingOf = (sentTensors) =>
    roundingOfWeights(problem, run, roundedOf(sentTensors), options.seed);
  const solved = yield* sent(problem, { result, error }, options, roundingOf);
  return { solved, worst: solved.worst, plan };
}

/** Tensors that rounding has changed. */
const roundedOf = (sentTensors: Parameters<RoundingOf>[0]) =>
  Object.fromEntries(
    Array.from(sentTensors)
      .filter(([, { narrowing }]) => narrowing.relative > 0)
      .map(([name, { tensor }]) => [name, tensor]),
  );

function missed({ plan, worst }: Tried, { tolerance }: SolveOptions): string {
  const reached = Number.isFinite(worst)
    ? `an error of up to ${worst.toPrecision(2)}`
    : 'no result';
  return `Sampled with ${plan.keys} keys drawn for a block gave ${reached}, above the tolerance of ${tolerance}`;
}

/** The exact answer in place of a sampled one that missed the tolerance. @throws {Problem} when sampled was asked for. */
function* instead(problem: AttentionProblem, last: Tried, options: SolveOptions): Job<Solution> {
  const { tolerance, method } = options;
  const why = missed(last, options);
  if (method === 'sampled') {
    throw new Problem('tolerance-missed', `${why}. The exact kernel always keeps it.`, {
      pointer: '/method',
      ...(Number.isFinite(last.worst) && { limit: tolerance, actual: last.worst }),
    });
  }
  const exact = yield* exactly(problem, options, `${why}: computed exactly.`, true);
  return { ...exact, plan: null, sampled: last.plan };
}

/** Both runs together are held to this share of the tolerance: the second one may have bad luck, too. */
const MARGIN = 0.9;

/** The plan of a second run; null: both together are not expected to keep the tolerance, or exact is cheaper. */
function* moreDraws(
  problem: AttentionProblem,
  { topUp }: Planned,
  { plan, solved, worst }: Tried,
  options: SolveOptions,
): Job<SampledPlan | null> {
  if (!solved) return null;
  // A plan's error is relative to the norm of the answer, that of an answer to that of the true gradient.
  const hopeful = Math.min(1, (plan.predictedError * (1 + worst)) / worst);
  const more = yield* topUp(MARGIN * hopeful * toleranceOfPlan(problem, options));
  const seconds = sampledSeconds(problem, more, options);
  const pays = options.method === 'sampled' || seconds.sampled < seconds.exact;
  return more.meetsTolerance && pays ? more : null;
}

/** Two plans as one, for the figures of an answer. */
const bothOf = (first: SampledPlan, more: SampledPlan): SampledPlan => ({
  ...more,
  keys: first.keys + more.keys,
  work: first.work + more.work,
  linearWork: first.linearWork + more.linearWork,
  tried: first.tried,
});
