/** Rows of a wave that are looked at twice, drawn by what they carry. */

import type { ExactPlan, Workspace } from '../../attention/plan.js';
import { sampleRows } from '../../estimate/rows.js';
import { headsOfWave } from '../tasks.js';
import type { Draw } from './kernel-rows.js';
import { largestOf, lengthOf, roundedLogit } from './logits.js';
import type { SampleTask } from './sample.js';

/**
 * What is rounded away of what the rows of a wave carry, by which they are drawn: the logits of a row are rounded as they are
 * long. A row of ten times the length may make all of the error and carry no more than others.
 */
function familiesOf(plan: ExactPlan, workspace: Workspace, rows: number): Float64Array[] {
  const { normG, normS, normQS, normDQ, normSink, largestK } = workspace;
  const families = [normG, normS, normQS, normDQ, normSink].map(
    (norms) => new Float64Array(norms.subarray(0, rows)),
  );
  const longest = largestOf(largestK);
  for (let i = 0; i < rows; i++) {
    const rounded = 1 + roundedLogit(plan, lengthOf(workspace, i, 0) * longest);
    for (const carried of families) carried[i]! *= rounded;
  }
  return families;
}

/** Rows of a wave in their order. @param size of a cluster; absent: there are none. */
export function drawRows(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  draws: number,
  seed: number,
  size?: number,
): Draw[] {
  const { queryLength } = plan.problem.dims;
  const heads = headsOfWave(plan, wave);
  const rows = heads.length * queryLength;
  return sampleRows(familiesOf(plan, workspace, rows), size ?? rows, draws, seed + wave)
    .sort((a, b) => a.index - b.index)
    .map(({ index, probability, cluster }): Draw => {
      const { place, headGroup, head } = heads[Math.floor(index / queryLength)]!;
      const partition = { place, headGroup, head, partition: 0 };
      return { partition, row: index % queryLength, probability, cluster };
    });
}

/** At most as many tasks as `sums`. */
export function sampleTasks(
  plan: ExactPlan,
  workspace: Workspace,
  wave: number,
  draws: number,
  seed: number,
  sums: readonly SampleTask['sums'][],
): SampleTask[] {
  const { rotary, dims } = plan.problem;
  const size = rotary ? plan.group * dims.queryLength : undefined;
  const drawn = drawRows(plan, workspace, wave, draws, seed, size);
  const clusters = new Set(drawn.map(({ cluster }) => cluster)).size;
  const each = Math.ceil(drawn.length / sums.length);
  const headGroups = [...new Set(drawn.map(({ partition }) => partition.headGroup))];
  return sums.flatMap((mine, k) => {
    // Under rotary positions a task projects the keys of its head groups: none has those of another.
    const part = rotary
      ? drawn.filter(({ partition }) => headGroups.indexOf(partition.headGroup) % sums.length === k)
      : drawn.slice(k * each, (k + 1) * each);
    if (part.length === 0) return [];
    const what = { plan, workspace, wave, draws: part, clusters, sums: mine };
    return [{ kernel: 'exact', step: 'sample', ...what } as SampleTask];
  });
}
