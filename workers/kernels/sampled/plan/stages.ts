/** The plan of a sampled run: a look at some blocks of every head, and the choice among what they show. */
import { type Job, stage } from '../../../job.js';
import type { AttentionProblem } from '../../../problem.js';
import { Lease } from '../../../tensor/shared-memory.js';
import { makePlan, makeWorkspace, wavesOf } from '../../attention/plan.js';
import type { Needs } from '../../exact/cost.js';
import type { ProjectTask } from '../../exact/project.js';
import { headsOfWave, type SeveralTask } from '../../exact/tasks.js';
import { projectWave } from '../../exact/wave.js';
import type { GradientOutputs } from '../../result.js';
import { type TableTask, tableTasks } from '../error/tables.js';
import type { ChoiceTask } from './choice.js';
import type { Pilot, PilotTask } from './pilot.js';
import type { SampledPlan } from './plan.js';

export type PlanTask = ProjectTask | SeveralTask | TableTask | PilotTask | ChoiceTask;

export interface PlanOptions extends GradientOutputs {
  /** Of the upper limit of every gradient. */
  readonly tolerance: number;
  /** Mean number of drawn keys; absent: as many as keep the tolerance. */
  readonly keys?: number | undefined;
  readonly needs: Needs;
  readonly seed: number;
}

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
  const pilots = yield* pilotStages(problem, options);
  const { tolerance, keys, needs } = options;
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
): Job<Pilot[], PlanTask> {
  const memory = new Lease();
  try {
    const plan = makePlan(problem, outputs);
    const workspace = makeWorkspace(plan, memory);
    const { tables, tasks } = tableTasks(problem, seed);
    yield* stage('plan', tasks);
    const pilots: Pilot[] = [];
    for (let wave = 0; wave < wavesOf(plan); wave++) {
      yield* projectWave(plan, workspace, wave);
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
