/** The end of a wave: float32 sums over stretches of tokens are added up in float64, in order. */
import type { ProjectionName } from '../../../src/lora/problem.js';
import type { Gradients } from '../result.js';
import { type ContractParts, placesOf } from './contract.js';
import { slice } from './operands.js';
import { type ExactPlan, roundUp, type Unit, type Workspace } from './plan.js';

export interface FinishTask {
  readonly kernel: 'exact';
  readonly step: 'finish';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly units: readonly Unit[];
  /** What the contract tasks left, and of which batch item. */
  readonly parts: readonly { readonly batchItem: number; readonly parts: ContractParts }[];
  readonly gradients: Gradients;
}

export function runFinish(task: FinishTask): null {
  const { plan, units, gradients, workspace } = task;
  const { headDim: d, valueDim: dv } = plan.problem.dims;
  const { rq, rk, rv } = plan.thin;
  for (const { batchItem, parts } of task.parts) {
    for (const [name, part] of Object.entries(parts.A) as [ProjectionName, Float32Array][]) {
      const { adapter, inFeatures } = plan.problem.projections[name];
      const [to, r8] = [gradients[name]!.lora_A, roundUp(adapter!.rank, 8)];
      const scale = scaleOf(plan, name);
      for (let r = 0; r < adapter!.rank; r++) {
        for (let c = 0; c < inFeatures; c++) to[r * inFeatures + c]! += scale * part[c * r8 + r]!;
      }
    }
    if (!parts.BQ) continue;
    const r8 = roundUp(rq, 8);
    const scale = scaleOf(plan, 'q_proj');
    placesOf(units, batchItem).forEach((place, index) => {
      for (let x = 0; x < plan.group; x++) {
        const part = slice(parts.BQ!, index * plan.group + x, d * r8);
        const head = units[place]!.sharedHead * plan.group + x;
        const to = slice(gradients.q_proj!.lora_B, head, d * rq);
        for (let c = 0; c < d; c++) {
          for (let r = 0; r < rq; r++) to[c * rq + r]! += scale * part[c * r8 + r]!;
        }
      }
    });
  }
  units.forEach(({ sharedHead }, place) => {
    const sums = plan.group * plan.lanes;
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
  return null;
}

/** s beta for queries and keys, s for values. */
function scaleOf({ problem }: ExactPlan, name: ProjectionName): number {
  const { scaling } = problem.projections[name].adapter!;
  return name === 'v_proj' ? scaling : scaling * problem.scaling;
}

function addScaled(x: Float64Array, scale: number, to: Float64Array): void {
  for (let k = 0; k < x.length; k++) to[k]! += scale * x[k]!;
}
