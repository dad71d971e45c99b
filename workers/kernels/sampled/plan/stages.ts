/** The plan of a sampled run: a look at some blocks of every head, and the choice among what they show. */
import { type Job, stage } from '../../../job.js';
import type { AttentionProblem } from '../../../problem.js';
import { Lease } from '../../../tensor/shared-memory.js';
import {
  type ExactPlan,
  headGroupsOf,
  makePlan,
  makeWorkspace,
  type Workspace,
  wavesOf,
} from '../../attention/plan.js';
import type { Needs } from '../../exact/cost.js';
import type { ProjectTask } from '../../exact/project.js';
import { headsOfWave, inMessages, projectTasks, type SeveralTask } from '../../exact/tasks.js';
import type { GradientOutputs } from '../../result.js';
import { type TableTask, tableTasks } from '../error/tables.js';
import type { ChoiceTask } from './choice.js';
import { FIRST_LOOK_FLOPS, rowCost } from './cost.js';
import type { Pilot, PilotTask } from './pilot.js';
import type { SampledPlan } from './plan.js';

export type PlanTask = ProjectTask | SeveralTask | TableTask | PilotTask | ChoiceTask;

export interface PlanOptions extends GradientOutputs {
  /** What the upper limit of every gradient is to keep. */
  readonly tolerance: number;
  /** Mean number of drawn keys; absent: as many as keep the tolerance. */
  readonly keys?: number | undefined;
  readonly needs: Needs;
  readonly seed: number;
}

/**
 * Whether to go on with a plan, asked before the first head is looked at and before all others are.
 *
 * @param work that it takes. @param whole that plan and run are then expected to take, as far as it is known: flops of the exact kernel.
 */
export type Affords = (work: number, whole?: number) => boolean;

/** A plan, and what it was chosen from: one that tops it up needs no second look at the input. */
export interface Planned {
  readonly plan: SampledPlan;
  /** More draws, which keep a tolerance together with those of the plan. */
  topUp(tolerance: number): Job<SampledPlan, PlanTask>;
}

/** @throws {NumericError} when rows are too large for the algebra. */
export function* planSampled(
  problem: AttentionProblem,
  options: PlanOptions,
): Job<Planned, PlanTask> {
  return yield* plannedBy(problem, options, (yield* pilotStages(problem, options, null))!);
}

/** The plan; null: it is given up, before the first look or after it. @throws {NumericError} */
export function* findSampled(
  problem: AttentionProblem,
  options: PlanOptions,
  affords: Affords,
): Job<Planned | null, PlanTask> {
  const heads = problem.dims.batch * problem.dims.heads;
  const { plan: all, fixed } = rowCost(problem, options.needs);
  if (!affords(all / heads + FIRST_LOOK_FLOPS)) return null;
  /** Whether to look at the others after a look at one head, which stands for all. */
  function* goOn(pilot: Pilot): Job<boolean, PlanTask> {
    const { plan: one } = yield* plannedBy(problem, options, [pilot]);
    const whole = all + fixed + heads * (one.work - all - fixed);
    return one.meetsTolerance && affords((1 - 1 / heads) * all, whole);
  }
  const pilots = yield* pilotStages(problem, options, heads > 1 ? goOn : null);
  return pilots && (yield* plannedBy(problem, options, pilots));
}

function* plannedBy(
  problem: AttentionProblem,
  { tolerance, keys, needs }: PlanOptions,
  pilots: readonly Pilot[],
): Job<Planned, PlanTask> {
  const what = { kernel: 'sampled', step: 'choose', problem, pilots, needs } as const;
  function* chosen(of: Pick<ChoiceTask, 'tolerance' | 'keys' | 'first'>) {
    return (yield* stage<ChoiceTask>('plan', [{ ...what, ...of }]))[0]!;
  }
  const plan = yield* chosen({ tolerance, keys, first: null });
  return {
    plan,
    topUp: (tolerance) => chosen({ tolerance, keys: undefined, first: plan.variances }),
  };
}

function* pilotStages(
  problem: AttentionProblem,
  { seed, ...outputs }: PlanOptions,
  goOn: ((pilot: Pilot) => Job<boolean, PlanTask>) | null,
): Job<Pilot[] | null, PlanTask> {
  const memory = new Lease();
  try {
    const plan = makePlan(problem, outputs);
    const workspace = makeWorkspace(plan, memory);
    const { tables, tasks } = tableTasks(problem, seed);
    yield* stage('plan', tasks);
    const pilots: Pilot[] = [];
    for (let wave = 0; wave < wavesOf(plan); wave++) {
      const heads = headsOfWave(plan, wave);
      const look = function* (from: number, to: number) {
        const looks = heads.slice(from, to).map(
          (head): PilotTask => ({
            ...{ kernel: 'sampled', step: 'pilot', plan, workspace, wave, head, tables, seed },
          }),
        );
        pilots.push(...(yield* stage<PilotTask>('plan', looks)));
      };
      const alone = wave === 0 && goOn !== null;
      if (alone) {
        yield* project(plan, workspace, wave, 0, 1);
        yield* look(0, 1);
        if (!(yield* goOn(pilots[0]!))) return null;
      }
      yield* project(plan, workspace, wave, alone ? 1 : 0);
      yield* look(alone ? 1 : 0, heads.length);
    }
    return pilots;
  } finally {
    memory.end();
  }
}

/** The head groups [from, to) of a wave. */
function* project(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  from: number,
  to?: number,
): Job<void, ProjectTask | SeveralTask> {
  const tasks = projectTasks(plan, workspace, headGroupsOf(plan, wave).slice(from, to));
  yield* inMessages(
    'project',
    tasks.map((task) => ({ ...task, firstHeadGroup: from + task.firstHeadGroup })),
  );
}
