/** Makes the answer from the sums of one run or two: gradients, and what measured blocks and rows that were computed twice say about their errors. */
import { type Job, stage } from '../../job.js';
import { type AttentionProblem, hasAttentionStates, STATES } from '../../problem.js';
import type { EncodedTensor } from '../../tensor/encoded.js';
import { type ErrorEstimate, frobenius } from '../estimate/estimate.js';
import type { ErrorEstimates, EstimateTask } from '../exact/error/estimate.js';
import { roundingErrors } from '../exact/gradient.js';
import { ROWS } from '../inner/block.js';
import {
  type GradientOutputs,
  type GradientResult,
  type ParameterGradients,
  tensorsOf,
} from '../result.js';
import { drawErrors, largestRatio, type Measured, type MeasuredRun } from './error/errors.js';
import { type Norm, type NormTask, normOf } from './error/norms.js';
import { type Role, type TableTask, tableTasks } from './error/tables.js';
import { type MixTask, mixed } from './mix.js';
import type { SampledPlan } from './plan/plan.js';
import { type SampledSums, squaresOfWeights, stateSquares } from './sums.js';

export interface SampledResult extends GradientResult {
  readonly inputGradients: SampledSums['inputGradients'];
  /** Estimates by tensor, under the names of the answer's `error`. */
  readonly errors: ErrorEstimates;
  /** What they are made of. */
  readonly measured: Measured;
}

/** The answer of one run. */
export function* answerOf(
  problem: AttentionProblem,
  plan: SampledPlan,
  { inputGradients: kind }: GradientOutputs,
  run: SampledSums,
): Job<SampledResult, EstimateTask> {
  const { measurements: _, squares, samples, longest, loss, ...sums } = run;
  const norms = { ...parameterNorms(sums), ...stateNorms(squares) };
  const states = { ...sums, inputGradients: statesOf(problem, sums) };
  const found = (yield* roundingErrors(problem, states, samples, kind)) ?? {};
  const rounding = Object.fromEntries(
    Object.entries(found).map(([name, estimate]) => {
      const role = name as Role;
      const row = problem.projectedFrom?.[role] ? longest[role] : undefined;
      const norm = norms[name]?.norm;
      if (row === undefined || norm === undefined) return [name, estimate];
      // Rows are rounded apart from each other: |X^T e| is then at most about |e| times the longest row of X.
      return [name, scaled(estimate, (row * Math.sqrt(samples.squares[role]!)) / norm)];
    }),
  );
  const measured = { runs: [runOf(problem, plan, run)], norms, rounding };
  return {
    ...sums,
    ...{ errors: drawErrors(problem, measured), measured },
    loss: problem.objective.kind === 'target' ? loss : null,
  };
}

export type MixingTask = MixTask | TableTask | NormTask;

/**
 * Of a first answer and a second run, whose draws are its own. Its tensors are those of the first, where they lie.
 *
 * @param plan of the second run: it has its share of the answer.
 */
export function* together(
  problem: AttentionProblem,
  first: SampledResult,
  plan: SampledPlan,
  second: SampledSums,
  seed: number,
): Job<SampledResult, MixingTask> {
  const { share } = plan;
  const found = yield* mixed(first, second, share);
  const { tables, tasks } = tableTasks(problem, seed);
  yield* stage('project', tasks);
  const squares = yield* stateSquares(problem, tables, statesOf(problem, first), found);
  const norms = { ...parameterNorms(first), ...stateNorms(squares) };
  const { runs, rounding, norms: before } = first.measured;
  const measured = {
    runs: [
      ...runs.map((run) => ({ ...run, share: (1 - share) * run.share })),
      runOf(problem, plan, second),
    ],
    norms,
    // Rows that are looked at twice tell of all keys, whichever are drawn: both runs are off by as much, and not independently.
    rounding: Object.fromEntries(
      Object.entries(rounding).map(([name, estimate]) => {
        const [was, is] = [before[name]!.norm, norms[name]!.norm];
        return [name, was > 0 ? scaled(estimate, was / is) : estimate];
      }),
    ),
  };
  const loss = first.loss === null ? null : first.loss + share * (second.loss - first.loss);
  return { ...first, loss, errors: drawErrors(problem, measured), measured };
}

/**
 * What rounding gradients of attention states to the dtypes in which they are sent does to the gradients of the weights that
 * tolerance and errors are about: relative to their norms, by role. Much of dK may cancel in X^T dK, as a channel that is
 * large in all rows does, and what rounding adds does not.
 *
 * @param sent the tensors that were rounded, by role.
 */
export function* roundingOfWeights(
  problem: AttentionProblem,
  { inputGradients, measured }: SampledResult,
  sent: Readonly<Partial<Record<Role, EncodedTensor>>>,
  seed: number,
): Job<Partial<Record<Role, number>>, MixingTask> {
  const roles = (Object.keys(sent) as Role[]).filter((role) => problem.projectedFrom?.[role]);
  const relative: Partial<Record<Role, number>> = {};
  if (roles.length === 0) return relative;
  const { tables, tasks } = tableTasks(problem, seed);
  yield* stage('encode', tasks);
  for (const role of roles) {
    const gradient = inputGradients![STATES.attention[role]]!;
    const of = { gradient, sent: sent[role]! };
    const squares = yield* squaresOfWeights(problem, role, tables[role]!, of);
    relative[role] = largestRatio(normOf(squares), measured.norms[role]!);
  }
  return relative;
}

/** Blocks that are drawn, or might be. */
export function drawnBlocks({ dims }: AttentionProblem, { heads }: SampledPlan): number {
  const drawn = heads.filter(({ coordinates }) => coordinates > 0);
  return Math.ceil(dims.queryLength / ROWS) * drawn.length;
}

const runOf = (
  problem: AttentionProblem,
  plan: SampledPlan,
  { measurements }: SampledSums,
): MeasuredRun => ({
  ...measurements,
  ...{ share: plan.share, scale: plan.scale, all: drawnBlocks(problem, plan) },
});

const parameterNorms = (gradients: ParameterGradients) =>
  Object.fromEntries(
    tensorsOf(gradients).map(([name, x]): [string, Norm] => [
      name,
      { norm: frobenius(x), variance: 0 },
    ]),
  );

const stateNorms = (squares: SampledSums['squares']) =>
  Object.fromEntries(Object.entries(squares).map(([role, ofColumns]) => [role, normOf(ofColumns)]));

/** Gradients of inputs by way of projections have no figure here. */
const statesOf = (
  problem: AttentionProblem,
  { inputGradients }: Pick<SampledSums, 'inputGradients'>,
) => (hasAttentionStates(problem) ? inputGradients : null);

/** With another norm below the line. */
function scaled(estimate: ErrorEstimate, factor: number): ErrorEstimate {
  const { relative, upper, standard_error } = estimate;
  return {
    ...estimate,
    relative: factor * relative,
    upper: factor * upper,
    standard_error: factor * standard_error,
  };
}
