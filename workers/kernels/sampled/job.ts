/**
 * LoRA gradients with drawn far keys, as a job. Each block of 64 query rows meets its near keys as they are and, of
 * the others, a few that are drawn: key j with probability pi_j, which adds -ln pi_j to its logit. Everything else is
 * that of the exact kernel, on the rows of these keys.
 */
import { type Job, stage } from '../../job.js';
import { type AttentionProblem, hasAttentionStates, STATES } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import { type ExactPlan, makePlan, makeWorkspace, type Workspace } from '../attention/plan.js';
import type { PartitionOfHead } from '../attention/task.js';
import type { Needs } from '../exact/cost.js';
import { type ErrorEstimates, largestLogit } from '../exact/error/estimate.js';
import type { FinishTask } from '../exact/finish.js';

import type { ProjectionNorms } from '../exact/project.js';
import { contractStages, type SumsTask } from '../exact/sums.js';
import { attendTasks, headsOfWave, projectTasks } from '../exact/tasks.js';
import { composedNorms } from '../exact/wave.js';
import {
  allocateOutputs,
  type GradientOutputs,
  type GradientResult,
  type InputGradients,
  ROLES,
} from '../result.js';
import type { SampledAttendTask, SampledReport } from './attend.js';
import { type Coordinates, type CoordinatesTask, makeCoordinates } from './coordinates.js';
import { chooseMeasured, measuredOf } from './error/blocks.js';
import { drawErrors } from './error/errors.js';
import { makeMeasurements } from './error/measure.js';
import { type NormTask, normOf, sizesOf } from './error/norms.js';
import { type Role, type Tables, type TableTask, tableTasks } from './error/tables.js';
import type { ChoiceTask } from './plan/choice.js';
import type { Pilot, PilotTask } from './plan/pilot.js';
import type { HeadPlan, SampledPlan } from './plan/plan.js';
import { joinKeys } from './plan/scale.js';

export type SampledTask =
  | SumsTask
  | TableTask
  | ChoiceTask
  | NormTask
  | CoordinatesTask
  | PilotTask
  | SampledAttendTask;

export interface SampledOptions extends GradientOutputs {
  readonly seed: number;
}

export interface SampledResult extends GradientResult {
  /** By tensor, as the answer's `error` has them. */
  readonly errors: ErrorEstimates;
}

export function* sampledJob(
  problem: AttentionProblem,
  sampled: SampledPlan,
  options: SampledOptions,
): Job<SampledResult, SampledTask> {
  const [memory, ofWave] = [new Lease(), new Lease()];
  try {
    const plan = makePlan(problem, options);
    const workspace = makeWorkspace(plan, memory);
    const coordinates = makeCoordinates(plan, sampled.heads, memory);
    return yield* stages(problem, sampled, options, plan, workspace, coordinates, ofWave);
  } finally {
    memory.end();
    ofWave.end();
  }
}

function* stages(
  problem: AttentionProblem,
  sampled: SampledPlan,
  options: SampledOptions,
  plan: ExactPlan,
  workspace: Workspace,
  coordinates: Coordinates,
  memory: Lease,
): Job<SampledResult, SampledTask> {
  const { heads } = problem.dims;
  const { totals, inputGradients, attentionOutput } = allocateOutputs(problem, options);
  const projectionNorms: ProjectionNorms[] = [];
  const { tables, tasks } = tableTasks(problem, options.seed);
  yield* stage('project', tasks);
  const planOf = ({ headGroup, head }: Omit<PartitionOfHead, 'partition'>) =>
    sampled.heads[headGroup.batchItem * heads + head]!;
  const drawn = plan.blocks * sampled.heads.filter(({ coordinates }) => coordinates > 0).length;
  const measurements = makeMeasurements();
  const squares: Partial<Record<Role, number>> = {};
  let [loss, logit] = [0, 0];
  for (const [wave, headGroups] of plan.waves.entries()) {
    const tasks = projectTasks(plan, workspace, headGroups);
    projectionNorms.push(...((yield { name: 'project', tasks }) as ProjectionNorms[]));
    logit = Math.max(logit, largestLogit(plan, workspace));
    yield* coordinateStage(plan, workspace, coordinates, wave, planOf);
    const heads = headsOfWave(plan, wave).filter((head) => planOf(head).coordinates > 0);
    const share = (heads.length * plan.blocks) / Math.max(1, drawn);
    const measured = chooseMeasured(plan, heads, coordinates.sizes, {
      ...{ count: share * measuredOf(drawn), seed: options.seed + wave },
    });
    const attend = attendTasks(plan, workspace, attentionOutput, wave);
    const tasksOfWave = attend.tasks.map(
      (task): SampledAttendTask => ({
        ...task,
        ...{ kernel: 'sampled', sampled, coordinates, tables, measured, seed: options.seed },
      }),
    );
    const span = [wave / plan.waves.length, (wave + 1) / plan.waves.length] as const;
    const reports = (yield {
      name: 'attend',
      ...{ tasks: tasksOfWave, stride: attend.stride, span },
    }) as SampledReport[];
    for (const report of reports) {
      loss += report.loss;
      measurements.blocks.push(...report.measurements.blocks);
      joinKeys(measurements.keys, report.measurements.keys);
    }
    const contracted = contractStages(
      ...([plan, workspace, headGroups, options.inputGradients, inputGradients, memory] as const),
    );
    for (const mine of contracted) {
      const results = yield { name: 'contract', tasks: mine };
      mine.forEach((task, k) => {
        if (task.step !== 'full') return;
        const role = ROLES[task.projection];
        squares[role] = (squares[role] ?? 0) + (results[k] as number);
      });
    }
    const finish: FinishTask = {
      ...{ kernel: 'exact', step: 'finish', plan, workspace, headGroups, totals, sums: [] },
      parts: contracted.flat().map(({ batchItem, parts }) => ({ batchItem, parts })),
    };
    yield { name: 'finish', tasks: [finish] };
    memory.end();
  }
  const norms = yield* normStage(problem, tables, inputGradients, squares);
  return {
    ...totals,
    errors: drawErrors(plan, totals, norms, {
      ...{ ...measurements, scale: sampled.scale, drawn, logit },
    }),
    loss: problem.objective.kind === 'target' ? loss : null,
    attentionOutput,
    inputGradients,
    headNorms: composedNorms(projectionNorms, problem),
  };
}

/**
 * Norms of the gradients of attention states, by name: their own, or those of the weights' gradients.
 *
 * @param squares of the gradients as they are.
 */
function* normStage(
  problem: AttentionProblem,
  tables: Tables,
  inputGradients: InputGradients<Float32Array> | null,
  squares: Readonly<Partial<Record<Role, number>>>,
): Job<Readonly<Record<string, number>>, SampledTask> {
  if (!hasAttentionStates(problem) || !inputGradients) return {};
  const norms: Record<string, number> = {};
  for (const [role, square] of Object.entries(squares) as [Role, number][]) {
    const table = tables[role];
    norms[role] = Math.sqrt(square);
    if (!table?.ofInputs) continue;
    const { heads } = sizesOf(problem, role);
    const tasks = Array.from({ length: problem.dims.batch * heads }, (_, k): NormTask => {
      const place = { batchItem: Math.floor(k / heads), head: k % heads };
      const gradient = inputGradients[STATES.attention[role]]!;
      return { kernel: 'sampled', step: 'norm', problem, role, table, gradient, ...place };
    });
    norms[role] = normOf(yield* stage('contract', tasks), table.columns);
  }
  return norms;
}

function* coordinateStage(
  plan: ExactPlan,
  workspace: Workspace,
  coordinates: Coordinates,
  wave: number,
  planOf: (head: Omit<PartitionOfHead, 'partition'>) => HeadPlan,
): Job<void, SampledTask> {
  const tasks = headsOfWave(plan, wave).map(
    (head): CoordinatesTask => ({
      ...{ kernel: 'sampled', step: 'coordinates', plan, workspace, coordinates },
      ...{ head, headPlan: planOf(head) },
    }),
  );
  yield { name: 'coordinates', tasks };
}

export interface PlanOptions extends GradientOutputs {
  /** Of the upper limit of every gradient. */
  readonly tolerance: number;
  /** Mean number of drawn keys; absent: as many as keep the tolerance. */
  readonly keys?: number | undefined;
  readonly needs: Needs;
  readonly seed: number;
}

/** A plan, and what it was chosen from: a stricter one needs no second look at the input. */
export interface Planned {
  readonly plan: SampledPlan;
  stricter(tolerance: number): Job<SampledPlan, SampledTask>;
}

/** @throws {NumericError} when rows are too large for the algebra. */
export function* planSampled(
  problem: AttentionProblem,
  options: PlanOptions,
): Job<Planned, SampledTask> {
  const pilots = yield* pilotStages(problem, options);
  const { tolerance, keys, needs } = options;
  const what = { kernel: 'sampled', step: 'choose', problem, pilots, needs } as const;
  const [plan] = yield* stage<ChoiceTask>('plan', [{ ...what, tolerance, keys }]);
  return {
    plan: plan!,
    *stricter(tolerance) {
      const task: ChoiceTask = { ...what, tolerance, keys: undefined };
      return (yield* stage<ChoiceTask>('plan', [task]))[0]!;
    },
  };
}

function* pilotStages(
  problem: AttentionProblem,
  { seed, ...outputs }: PlanOptions,
): Job<Pilot[], SampledTask> {
  const memory = new Lease();
  try {
    const plan = makePlan(problem, outputs);
    const workspace = makeWorkspace(plan, memory);
    const { tables, tasks } = tableTasks(problem, seed);
    yield* stage('plan', tasks);
    const pilots: Pilot[] = [];
    for (const [wave, headGroups] of plan.waves.entries()) {
      yield { name: 'project', tasks: projectTasks(plan, workspace, headGroups) };
      const looks = headsOfWave(plan, wave).map(
        (head): PilotTask => ({
          ...{ kernel: 'sampled', step: 'pilot', plan, workspace, wave, head, tables, seed },
        }),
      );
      pilots.push(...(yield* stage<PilotTask>('plan', looks)));
    }
    return pilots;
  } finally {
    memory.end();
  }
}
