/**
 * The end of a wave: float32 sums over stretches of tokens are added up in float64, in order; after the last
 * wave also what its threads found of the rounding error.
 */
import { PROJECTIONS, type ProjectionName } from '../../problem.js';
import { type ExactPlan, type HeadGroup, roundUp, type Workspace } from '../attention/plan.js';
import { slice } from '../inner/operands.js';
import type { ParameterGradients } from '../result.js';
import { type ContractParts, placesOf } from './contract.js';
import { mergeSums, type SumsByTensor } from './error/estimate.js';

export interface FinishTask {
  readonly kernel: 'exact';
  readonly step: 'finish';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly headGroups: readonly HeadGroup[];
  /** What the contract tasks left, and of which batch item. */
  readonly parts: readonly { readonly batchItem: number; readonly parts: ContractParts }[];
  /** Totals to add to. */
  readonly totals: ParameterGradients;
  /** After the last wave: to be added to the first; else none. */
  readonly sums: readonly SumsByTensor[];
}

export function runFinish(task: FinishTask): null {
  const { plan, headGroups, workspace, totals } = task;
  const { gradients, sinks } = totals;
  const { headDim: d, valueDim: dv } = plan.problem.dims;
  const { rk, rv } = plan.thin;
  for (const { batchItem, parts } of task.parts) {
    for (const [name, part] of Object.entries(parts.A) as [ProjectionName, Float32Array][]) {
      const { adapter, inFeatures } = plan.problem.projections[name];
      const [to, r8] = [gradients[name]!.lora_A, roundUp(adapter!.rank, 8)];
      const scale = scaleOf(plan, name);
      for (let r = 0; r < adapter!.rank; r++) {
        for (let c = 0; c < inFeatures; c++) to[r * inFeatures + c]! += scale * part[c * r8 + r]!;
      }
    }
    for (const name of PROJECTIONS) {
      const part = parts.B[name];
      if (part) addHeads(task, batchItem, name, part);
    }
  }
  headGroups.forEach(({ sharedHead }, place) => {
    const sums = plan.group * plan.partitions;
    for (let k = place * sums; k < (place + 1) * sums; k++) {
      if (rk) {
        const to = slice(gradients.k_proj!.lora_B, sharedHead, d * rk);
        addScaled(slice(workspace.outK, k, d * rk), scaleOf(plan, 'k_proj'), to);
      }
      if (rv) {
        const to = slice(gradients.v_proj!.lora_B, sharedHead, dv * rv);
        addScaled(slice(workspace.outV, k, dv * rv), scaleOf(plan, 'v_proj'), to);
      }
    }
  });
  headGroups.forEach(({ sharedHead }, place) => {
    for (let x = 0; sinks && x < plan.group; x++) {
      const partitions = slice(workspace.sinks, place * plan.group + x, plan.partitions);
      sinks[sharedHead * plan.group + x]! += partitions.reduce((a, b) => a + b, 0);
    }
  });
  mergeSums(task.sums);
  return null;
}

/** lora_B += part (head, width, r8), for the heads of one batch item. */
function addHeads(
  { plan, headGroups, totals: { gradients } }: FinishTask,
  batchItem: number,
  name: ProjectionName,
  part: Float32Array,
): void {
  const { headDim, valueDim } = plan.problem.dims;
  const width = name === 'v_proj' ? valueDim : headDim;
  const rank = plan.problem.projections[name].adapter!.rank;
  const r8 = roundUp(rank, 8);
  const scale = scaleOf(plan, name);
  const each = name === 'q_proj' ? plan.group : 1;
  const { first, last } = placesOf(plan, headGroups, batchItem);
  for (let place = first; place < last; place++) {
    for (let x = 0; x < each; x++) {
      const from = slice(part, (place - first) * each + x, width * r8);
      const head = headGroups[place]!.sharedHead * each + x;
      const to = slice(gradients[name]!.lora_B, head, width * rank);
      for (let c = 0; c < width; c++) {
        for (let r = 0; r < rank; r++) to[c * rank + r]! += scale * from[c * r8 + r]!;
      }
    }
  }
}

/** s beta for queries and keys, s for values. */
function scaleOf({ problem }: ExactPlan, name: ProjectionName): number {
  const { scaling } = problem.projections[name].adapter!;
  return name === 'v_proj' ? scaling : scaling * problem.scaling;
}

function addScaled(x: Float64Array, scale: number, to: Float64Array): void {
  for (let k = 0; k < x.length; k++) to[k]! += scale * x[k]!;
}
