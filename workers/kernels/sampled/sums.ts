/**
 * LoRA gradients with drawn far keys: sums over the rows of a problem, or of a part of one. Each block of 64 query rows
 * meets its near keys as they are and, of the others, a few that are drawn: key j with probability pi_j, which adds
 * -ln pi_j to its logit. Everything else is that of the exact kernel, on the rows of these keys.
 */
import { type Job, stage } from '../../job.js';
import { type AttentionProblem, hasAttentionStates, STATES } from '../../problem.js';
import { Lease } from '../../tensor/shared-memory.js';
import {
  type ExactPlan,
  makePlan,
  makeWorkspace,
  type Workspace,
  wavesOf,
} from '../attention/plan.js';
import type { PartitionOfHead } from '../attention/task.js';
import type { EstimateTask, Samples } from '../exact/error/estimate.js';
import { type RowDraws, RowSamples } from '../exact/error/row-samples.js';
import type { ProjectionNorms } from '../exact/project.js';
import { contractWave, type SumsTask } from '../exact/sums.js';
import { attendTasks, headsOfWave } from '../exact/tasks.js';
import { composedNorms, projectWave } from '../exact/wave.js';
import {
  allocateOutputs,
  type GradientOutputs,
  type HeadNorms,
  type InputGradients,
  type ParameterGradients,
  ROLES,
} from '../result.js';
import type { Origin, SampledAttendTask, SampledReport } from './attend.js';
import { type Coordinates, type CoordinatesTask, makeCoordinates } from './coordinates.js';
import { chooseMeasured, type MeasureOptions } from './error/blocks.js';
import { joinMeasurements, type Measurements, makeMeasurements } from './error/measure.js';
import { columnSquares, type NormTask, sizesOf } from './error/norms.js';
import {
  longestRows,
  type Role,
  type Table,
  type Tables,
  type TableTask,
  tableTasks,
} from './error/tables.js';
import type { MixTask } from './mix.js';
import type { HeadPlan, SampledPlan } from './plan/plan.js';

/** Blocks of a head in one task: what it lays out for a head takes as long as one of them. */
const BLOCKS_TOGETHER = 16;

export type SampledTask =
  | SumsTask
  | EstimateTask
  | TableTask
  | NormTask
  | MixTask
  | CoordinatesTask
  | SampledAttendTask;

export interface SumsOptions extends GradientOutputs {
  /** Seed of the draws of the whole problem. */
  readonly seed: number;
  readonly origin: Origin;
  readonly measure: MeasureOptions;
  /** null: no rows are looked at twice. */
  readonly estimate: RowDraws | null;
}

/** What is known after the last row. Parts of a problem add up to it or stand beside each other. */
export interface SampledSums extends ParameterGradients {
  /** 1/2 ||O - Y||_F^2; 0 when the upstream gradient was given. */
  readonly loss: number;
  readonly attentionOutput: Float32Array | null;
  readonly inputGradients: InputGradients<Float32Array> | null;
  readonly headNorms: HeadNorms;
  readonly measurements: Measurements;
  /** Squares of the gradients of attention states, in the space in which they are measured, by role. */
  readonly squares: Readonly<Partial<Record<Role, Float64Array>>>;
  /** Rows that are looked at twice: what rounding does. */
  readonly samples: Samples;
  /** Largest norm of a row of the inputs of attention states, by role. */
  readonly longest: Readonly<Partial<Record<Role, number>>>;
}

export function* sampledSums(
  problem: AttentionProblem,
  sampled: SampledPlan,
  options: SumsOptions,
): Job<SampledSums, SampledTask> {
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
  options: SumsOptions,
  plan: ExactPlan,
  workspace: Workspace,
  coordinates: Coordinates,
  memory: Lease,
): Job<SampledSums, SampledTask> {
  const { heads } = problem.dims;
  const { seed, origin, measure } = options;
  const outputs = allocateOutputs(problem, options);
  const { totals, inputGradients, attentionOutput } = outputs;
  const rows = new RowSamples(plan, workspace, totals, inputGradients, options.estimate);
  const projectionNorms: ProjectionNorms[] = [];
  const { tables, tasks } = tableTasks(problem, seed);
  const longest = longestRows(tables, tasks, yield* stage('project', tasks));
  const planOf = ({ headGroup, head }: Omit<PartitionOfHead, 'partition'>) =>
    sampled.heads[headGroup.batchItem * heads + head]!;
  const measurements = makeMeasurements(origin.heads);
  let loss = 0;
  const waves = wavesOf(plan);
  for (let wave = 0; wave < waves; wave++) {
    projectionNorms.push(...(yield* projectWave(plan, workspace, wave)));
    yield* coordinateStage(plan, workspace, coordinates, wave, planOf);
    const heads = headsOfWave(plan, wave)
      .filter((head) => planOf(head).coordinates > 0)
      .map((head) => ({ ...head, variance: planOf(head).variance }));
    const measured = chooseMeasured(plan, heads, coordinates.sizes, {
      ...{ ...measure, seed: measure.seed + wave },
    });
    const attend = attendTasks(plan, workspace, attentionOutput, wave, BLOCKS_TOGETHER);
    const tasksOfWave = attend.tasks.map(
      (task): SampledAttendTask => ({
        ...task,
        ...{ kernel: 'sampled', sampled, coordinates, tables, measured, seed, origin },
      }),
    );
    const span = [wave / waves, (wave + 1) / waves] as const;
    const reports = (yield {
      name: 'attend',
      ...{ tasks: tasksOfWave, stride: attend.stride, span },
    }) as SampledReport[];
    for (const report of reports) {
      loss += report.loss;
      joinMeasurements(measurements, report.measurements);
    }
    yield* contractWave(plan, workspace, wave, options.inputGradients, outputs, rows, memory);
  }
  const samples = rows.samples(totals);
  return {
    ...totals,
    ...{ measurements, loss, attentionOutput, inputGradients },
    ...{ samples, longest },
    squares: yield* stateSquares(problem, tables, inputGradients, samples.squares),
    headNorms: composedNorms(projectionNorms, problem),
  };
}

/**
 * Squares of the gradients of attention states, by role: of themselves, or of the columns of what stands for the weights'
 * gradients.
 *
 * @param squares of the gradients as they are.
 */
export function* stateSquares(
  problem: AttentionProblem,
  tables: Tables,
  inputGradients: InputGradients<Float32Array> | null,
  squares: Readonly<Partial<Record<Role, number>>>,
): Job<SampledSums['squares'], NormTask> {
  if (!hasAttentionStates(problem) || !inputGradients) return {};
  const found: Partial<Record<Role, Float64Array>> = {};
  for (const role of Object.values(ROLES)) {
    const square = squares[role];
    if (square === undefined) continue;
    const table = tables[role];
    found[role] = Float64Array.of(square);
    if (!table?.ofInputs) continue;
    found[role] = yield* squaresOfWeights(problem, role, table, {
      gradient: inputGradients[STATES.attention[role]]!,
      sent: null,
    });
  }
  return found;
}

/** Squares by column of what stands for the gradient of the weights of a role. */
export function* squaresOfWeights(
  problem: AttentionProblem,
  role: Role,
  table: Table,
  of: Pick<NormTask, 'gradient' | 'sent'>,
): Job<Float64Array, NormTask> {
  const { heads } = sizesOf(problem, role);
  const tasks = Array.from({ length: problem.dims.batch * heads }, (_, k): NormTask => {
    const place = { batchItem: Math.floor(k / heads), head: k % heads };
    return { kernel: 'sampled', step: 'norm', problem, role, table, ...of, ...place };
  });
  return columnSquares(yield* stage('contract', tasks), table.columns);
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
