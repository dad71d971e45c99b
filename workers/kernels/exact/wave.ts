/** What the gradient and the output alone have in common: projections and attention of a wave. */

import type { Job } from '../../job.js';
import type { ProjectionName } from '../../problem.js';
import type { AttendReport } from '../attention/attend.js';
import type { ExactPlan, Workspace } from '../attention/plan.js';
import type { AttendTask } from '../attention/task.js';
import type { ComposedNorms } from '../norms.js';
import type { ProjectionNorms, ProjectTask } from './project.js';
import { attendTasks, projectTasks } from './tasks.js';

/** Projections, softmax and backward of a wave. */
export function* attendWave(
  plan: ExactPlan,
  workspace: Workspace,
  attentionOutput: Float32Array | null,
  wave: number,
): Job<{ readonly norms: readonly ProjectionNorms[] } & AttendReport, ProjectTask | AttendTask> {
  const project = projectTasks(plan, workspace, plan.waves[wave]!);
  const norms = (yield { name: 'project', tasks: project }) as ProjectionNorms[];
  const attend = attendTasks(plan, workspace, attentionOutput, wave);
  const span = [wave / plan.waves.length, (wave + 1) / plan.waves.length] as const;
  const reports = (yield { name: 'attend', ...attend, span }) as AttendReport[];
  const loss = reports.reduce((sum, part) => sum + part.loss, 0);
  const contradiction = reports.find((part) => part.contradiction)?.contradiction ?? null;
  return { norms, loss, contradiction };
}

export function composedNorms(all: readonly ProjectionNorms[], scaling: number): ComposedNorms {
  const largest = (name: ProjectionName, part: 'frozen' | 'adapter' | 'sum') =>
    all.reduce((m, norms) => (norms.projection === name ? Math.max(m, norms[part]) : m), 0);
  const root = Math.sqrt(scaling);
  return {
    query_frozen: root * largest('q_proj', 'frozen'),
    query_adapter: root * largest('q_proj', 'adapter'),
    query: root * largest('q_proj', 'sum'),
    key_frozen: root * largest('k_proj', 'frozen'),
    key_adapter: root * largest('k_proj', 'adapter'),
    key: root * largest('k_proj', 'sum'),
    value: largest('v_proj', 'sum'),
  };
}
