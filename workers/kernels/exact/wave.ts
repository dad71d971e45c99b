/** What the gradient and the output alone have in common: projections and attention of a wave. */

import type { Job } from '../../job.js';
import type { AttentionLayer, ProjectionName } from '../../problem.js';
import type { AttendReport } from '../attention/attend.js';
import { type ExactPlan, headGroupsOf, type Workspace, wavesOf } from '../attention/plan.js';
import type { AttendTask } from '../attention/task.js';
import { type ComposedNorms, ZERO_NORMS } from '../norms.js';
import type { OutputNorms, ProjectionNorms, ProjectTask } from './project.js';
import { attendTasks, inMessages, projectTasks, type SeveralTask } from './tasks.js';

export function* projectWave(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
): Job<ProjectionNorms[], ProjectTask | SeveralTask> {
  const tasks = projectTasks(plan, workspace, headGroupsOf(plan, wave));
  return (yield* inMessages('project', tasks)) as ProjectionNorms[];
}

/** Projections, softmax and backward of a wave. */
export function* attendWave(
  plan: ExactPlan,
  workspace: Workspace,
  attentionOutput: Float32Array | null,
  wave: number,
): Job<
  { readonly norms: readonly ProjectionNorms[] } & AttendReport,
  ProjectTask | SeveralTask | AttendTask
> {
  const norms = yield* projectWave(plan, workspace, wave);
  const attend = attendTasks(plan, workspace, attentionOutput, wave);
  const span = [wave / wavesOf(plan), (wave + 1) / wavesOf(plan)] as const;
  const reports = (yield { name: 'attend', ...attend, span }) as AttendReport[];
  const loss = reports.reduce((sum, part) => sum + part.loss, 0);
  const contradiction = reports.find((part) => part.contradiction)?.contradiction ?? null;
  return { norms, loss, contradiction };
}

const NAMES = {
  q_proj: { frozen: 'query_frozen', adapter: 'query_adapter', sum: 'query' },
  k_proj: { frozen: 'key_frozen', adapter: 'key_adapter', sum: 'key' },
  v_proj: { sum: 'value' },
} as const satisfies Record<ProjectionName, Partial<Record<string, keyof ComposedNorms>>>;

/** Query heads of a group have the norms of their key/value head. */
export function composedNorms(
  all: readonly ProjectionNorms[],
  { dims, scaling }: AttentionLayer,
): ComposedNorms[] {
  const norms = Array.from({ length: dims.batch * dims.heads }, () => ({ ...ZERO_NORMS }));
  const root = Math.sqrt(scaling);
  for (const { projection, batchItem, firstHead, heads } of all) {
    const group = projection === 'q_proj' ? 1 : dims.heads / dims.keyValueHeads;
    const scale = projection === 'v_proj' ? 1 : root;
    const names = Object.entries(NAMES[projection]) as [keyof OutputNorms, keyof ComposedNorms][];
    for (let k = 0; k < heads.length * group; k++) {
      const of = norms[batchItem * dims.heads + firstHead * group + k]!;
      const found = heads[Math.floor(k / group)]!;
      for (const [part, name] of names) of[name] = Math.max(of[name], scale * found[part]);
    }
  }
  return norms;
}
