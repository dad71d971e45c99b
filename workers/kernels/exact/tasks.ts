/** The tasks of each stage of a wave. */

import type { Job, Stage, Task } from '../../job.js';
import { keysOf } from '../../mask.js';
import {
  type AttentionKind,
  PROJECTIONS,
  type Projection,
  type ProjectionName,
  STATES,
} from '../../problem.js';
import type { Lease } from '../../tensor/shared-memory.js';
import {
  CONTRACT_TOKENS,
  type ExactPlan,
  type HeadGroup,
  headGroupsOf,
  PROJECT_TOKENS,
  rankOf,
  roundUp,
  type Workspace,
} from '../attention/plan.js';
import type { AttendTask, PartitionOfHead } from '../attention/task.js';
import { type InputGradients, ROLES } from '../result.js';
import { type ContractParts, type ContractTask, placesOf, TOKENS } from './contract.js';
import type { FullTask } from './full.js';
import type { ProjectTask } from './project.js';

/** Flops of a task that takes about 25 ms: short enough to share threads fairly, long enough to pay. */
const TASK_FLOPS = 1e9;

/** Tasks that a stage is cut into where it is not small, so that threads are through with it at the same time. */
const TASKS_OF_STAGE = 32;
/** Flops of a task that is not worth cutting: a fifth of a millisecond. */
const LEAST_TASK_FLOPS = 5e6;
/** Tasks that a contraction is cut into where it is long: each keeps sums as large as the gradients. */
export const CONTRACT_TASKS = 8;
/** Flops of a problem of two or three milliseconds: about as long as a team of threads takes for it. */
const BRIEF_FLOPS = 1.5e8;

/** Stretches [first, last) of at most `size` out of `total`, as even as whole numbers of `head group` are. */
function stretches(total: number, size: number, headGroup = 1): { first: number; last: number }[] {
  if (total === 0) return [];
  const even = roundUp(Math.ceil(total / Math.ceil(total / size)), headGroup);
  return Array.from({ length: Math.ceil(total / even) }, (_, k) => ({
    first: k * even,
    last: Math.min((k + 1) * even, total),
  }));
}

const batchItems = (headGroups: readonly HeadGroup[]): number[] => [
  ...new Set(headGroups.map(({ batchItem }) => batchItem)),
];

/** Multiply-adds for an element of a projection's output. */
const innerWidth = ({ weight, inFeatures }: Projection): number => (weight ? inFeatures : 1);

export function projectTasks(
  plan: ExactPlan,
  workspace: Workspace,
  headGroups: readonly HeadGroup[],
): ProjectTask[] {
  const { dims, projections } = plan.problem;
  const widths = { q_proj: plan.group * dims.headDim, k_proj: dims.headDim, v_proj: dims.valueDim };
  /** Flops of one head group for as many tokens as are in WebAssembly memory at once. */
  const flopsOf = (name: ProjectionName) =>
    2 * PROJECT_TOKENS * widths[name] * innerWidth(projections[name]);
  const allFlops = PROJECTIONS.reduce((sum, name) => sum + flopsOf(name), 0);
  const blocks =
    headGroups.length * Math.ceil(Math.max(dims.queryLength, dims.keyLength) / PROJECT_TOKENS);
  const flops = Math.min(
    TASK_FLOPS,
    Math.max(LEAST_TASK_FLOPS, (allFlops * blocks) / TASKS_OF_STAGE),
  );
  return PROJECTIONS.flatMap((projection) => {
    // As many head groups as the time allows, for they share the inputs in memory; then as many tokens.
    const fitting = Math.max(1, Math.floor(flops / flopsOf(projection)));
    return batchItems(headGroups).flatMap((batchItem) => {
      const places = placesOf(plan, headGroups, batchItem);
      const count = places.last - places.first;
      const together = Math.min(count, fitting);
      const tokens = PROJECT_TOKENS * Math.floor(fitting / together);
      const length =
        projection === 'q_proj' ? dims.queryLength : keysOf(plan.problem, batchItem).last;
      return stretches(count, together).flatMap(({ first, last }) => {
        const firstHeadGroup = places.first + first;
        const mine = headGroups.slice(firstHeadGroup, firstHeadGroup + last - first);
        const what = { plan, workspace, projection, headGroups: mine, firstHeadGroup };
        return stretches(length, tokens, PROJECT_TOKENS).map(
          (span): ProjectTask => ({ kernel: 'exact', step: 'project', ...what, ...span }),
        );
      });
    });
  });
}

/** Messages of a stage: what a task has with it takes longer than many a short one. */
const MOST_MESSAGES = 64;

/** Tasks that go together: what they share is in their message once. */
export interface SeveralTask {
  readonly kernel: 'exact';
  readonly step: 'several';
  /** Tasks of the exact kernel. */
  readonly tasks: readonly Task[];
}

/** One stage of tasks of any number. @returns what each of them does. */
export function* inMessages<T extends Task>(
  name: string,
  tasks: readonly T[],
): Job<unknown[], T | SeveralTask> {
  if (tasks.length <= MOST_MESSAGES) return [...(yield { name, tasks })];
  const messages = stretches(tasks.length, Math.ceil(tasks.length / MOST_MESSAGES)).map(
    ({ first, last }): SeveralTask => {
      return { kernel: 'exact', step: 'several', tasks: tasks.slice(first, last) };
    },
  );
  return (yield { name, tasks: messages }).flat();
}

/** Tokens that cost as much as the way of the weights into WebAssembly memory. */
const LEAST_TOKENS = 64;

/** Flops of the whole problem, about. */
function problemFlops(plan: ExactPlan): number {
  const { dims, projections } = plan.problem;
  const tokens = dims.batch * Math.max(dims.queryLength, dims.keyLength, LEAST_TOKENS);
  const weights = PROJECTIONS.reduce((sum, name) => {
    return sum + innerWidth(projections[name]) * projections[name].outFeatures;
  }, 0);
  return 2 * tokens * weights + dims.batch * dims.heads * plan.blocks * plan.blockFlops;
}

/** Whether the problem is done by one thread sooner than it is shared. */
export const isBrief = (plan: ExactPlan): boolean => problemFlops(plan) <= BRIEF_FLOPS;

/** All of a problem as one task; null: it is cut, so that threads share it fairly. */
export function wholeStage<T extends Task>(plan: ExactPlan, task: T): Stage<T> | null {
  if (problemFlops(plan) > TASK_FLOPS) return null;
  return { name: 'whole', tasks: [task], span: [0, 1], [isBrief(plan) ? 'brief' : 'team']: true };
}

/** Query heads of a wave in the order of their places. */
export function headsOfWave(plan: ExactPlan, wave: number): Omit<PartitionOfHead, 'partition'>[] {
  return headGroupsOf(plan, wave).flatMap((headGroup, index) =>
    Array.from({ length: plan.group }, (_, x) => ({
      place: index * plan.group + x,
      headGroup,
      head: headGroup.sharedHead * plan.group + x,
    })),
  );
}

/**
 * The row blocks of all partitions from first to last. A partition goes on where its task before ended, which is
 * `stride` tasks earlier.
 *
 * @param together blocks of a partition that a task takes at least.
 */
export function attendTasks(
  plan: ExactPlan,
  workspace: Workspace,
  attentionOutput: Float32Array | null,
  wave: number,
  together = 1,
): { readonly tasks: AttendTask[]; readonly stride: number } {
  const all = headsOfWave(plan, wave).flatMap((head) =>
    Array.from(
      { length: plan.partitions },
      (_, partition): PartitionOfHead => ({ ...head, partition }),
    ),
  );
  const flops = plan.blockFlops;
  const blocks = Math.ceil(plan.blocks / plan.partitions);
  const blocksAtOnce = Math.min(
    blocks,
    together * Math.max(1, Math.floor(TASK_FLOPS / (flops * together))),
  );
  // Short heads go together, but no more than leave work for several threads.
  const fitting = Math.floor(TASK_FLOPS / (flops * blocksAtOnce) / 4);
  const partitionsAtOnce = Math.max(1, Math.min(fitting, Math.floor(all.length / 16)));
  const groups = stretches(all.length, partitionsAtOnce);
  const tasks = stretches(blocks, blocksAtOnce).flatMap(({ first, last }) =>
    groups.map((span): AttendTask => {
      const partitions = all.slice(span.first, span.last);
      const what = { plan, workspace, attentionOutput, wave, partitions, first, last };
      return { kernel: 'exact', step: 'attend', ...what };
    }),
  );
  return { tasks, stride: groups.length };
}

/** Tokens of one batch item, of `items` that are contracted together: several tasks, but few sums to keep. */
function tokenStretches(plan: ExactPlan, items: number, length: number) {
  const { queryLength, keyLength } = plan.problem.dims;
  const wanted = (items * Math.max(queryLength, keyLength)) / CONTRACT_TASKS;
  const tokens = Math.max(TOKENS, Math.min(CONTRACT_TOKENS, wanted));
  return stretches(length, tokens, TOKENS);
}

/** @param memory for what the tasks leave. */
export function contractTasks(
  plan: ExactPlan,
  workspace: Workspace,
  headGroups: readonly HeadGroup[],
  memory: Lease,
): ContractTask[] {
  const { queryLength, headDim } = plan.problem.dims;
  const { rq, rk, rv } = plan.thin;
  const part = (name: ProjectionName, rank: number) => {
    const columns = plan.problem.projections[name].inFeatures;
    return rank ? { [name]: memory.float32(columns * roundUp(rank, 8)) } : {};
  };
  const items = batchItems(headGroups);
  return items.flatMap((batchItem) => {
    const places = placesOf(plan, headGroups, batchItem);
    const heads = (places.last - places.first) * plan.group;
    const task = (side: 'query' | 'key', parts: ContractParts, span: object) =>
      ({
        ...{
          kernel: 'exact',
          step: 'contract',
          plan,
          workspace,
          headGroups,
          batchItem,
          side,
          parts,
        },
        ...span,
      }) as ContractTask;
    const queries = tokenStretches(plan, items.length, rq ? queryLength : 0).map((span) =>
      task('query', { A: part('q_proj', rq), B: {} }, span),
    );
    const length = rq + rk + rv ? keysOf(plan.problem, batchItem).last : 0;
    const keys = tokenStretches(plan, items.length, length).map((span) => {
      const B = rq ? { q_proj: memory.float32(heads * headDim * roundUp(rq, 8)) } : {};
      return task('key', { A: { ...part('k_proj', rk), ...part('v_proj', rv) }, B }, span);
    });
    return [...queries, ...keys];
  });
}

/**
 * One list of tasks for each projection that is taken at full width: one after the other, since input
 * gradients of self-attention add up in one place.
 */
export function* fullStages(
  plan: ExactPlan,
  workspace: Workspace,
  headGroups: readonly HeadGroup[],
  kind: AttentionKind | undefined,
  inputGradients: InputGradients<Float32Array> | null,
  memory: Lease,
): Generator<FullTask[]> {
  const { dims, projections } = plan.problem;
  const wanted = { q_proj: plan.full.dQ, k_proj: plan.full.dK, v_proj: plan.full.dV };
  for (const projection of PROJECTIONS.filter((name) => wanted[name])) {
    const isQuery = projection === 'q_proj';
    const width = projection === 'v_proj' ? dims.valueDim : dims.headDim;
    const r8 = roundUp(rankOf(plan.problem, projection), 8);
    const inputGradient = (kind && inputGradients?.[STATES[kind][ROLES[projection]]]) ?? null;
    const items = batchItems(headGroups);
    yield items.flatMap((batchItem) => {
      const places = placesOf(plan, headGroups, batchItem);
      const heads = (places.last - places.first) * (isQuery ? plan.group : 1);
      const length = isQuery ? dims.queryLength : keysOf(plan.problem, batchItem).last;
      return tokenStretches(plan, items.length, length).map((span): FullTask => {
        const A = { [projection]: memory.float32(projections[projection].inFeatures * r8) };
        const B = { [projection]: memory.float32(heads * width * r8) };
        const parts: ContractParts = r8 ? { A, B } : { A: {}, B: {} };
        const what = { plan, workspace, headGroups, batchItem, projection, parts, inputGradient };
        return { kernel: 'exact', step: 'full', ...what, ...span };
      });
    });
  }
}
