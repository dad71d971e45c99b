/**
 * Gradients of a projection's outputs at full width meet its weights and its inputs, a stretch of
 * tokens a task. With dY (n, width) the gradient of one head before rotary positions:
 *
 *     d lora_A = s (dY B_h)^T X       d lora_B_h = s dY^T (X A^T)       dX = dY (W_h + s B_h A)
 *
 * summed over heads, but for lora_B; of attention states dX is dY, head by head. The factor beta of queries and keys comes in at the very end.
 */
import type { ProjectionName } from '../../problem.js';
import {
  type ExactPlan,
  type HeadGroup,
  rankOf,
  roundUp,
  type Workspace,
} from '../attention/plan.js';
import type { Wasm } from '../inner/instance.js';
import { pack, rotaryRows, rowsOf, slice } from '../inner/operands.js';
import { ROLES } from '../result.js';
import { type ContractParts, partitionsOf, placesOf, product, sumOf, TOKENS } from './contract.js';
import { lowRank } from './project.js';

export interface FullTask {
  readonly kernel: 'exact';
  readonly step: 'full';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly headGroups: readonly HeadGroup[];
  readonly batchItem: number;
  readonly projection: ProjectionName;
  /** Tokens [first, last) */
  readonly first: number;
  readonly last: number;
  readonly parts: ContractParts;
  /** dX (B, L, in), added to; null: not wanted. */
  readonly inputGradient: Float32Array | null;
}

/** @returns of attention states the squared norm of what was written, else 0. */
export function runFull(task: FullTask, wasm: Wasm, checkpoint: () => void): number {
  for (const x of [...Object.values(task.parts.A), ...Object.values(task.parts.B)]) x.fill(0);
  let square = 0;
  for (let first = task.first; first < task.last; first += TOKENS) {
    const n = Math.min(TOKENS, task.last - first);
    if (task.plan.problem.projections[task.projection].weight) {
      runTokens(task, wasm, first, n, checkpoint);
    } else square += writeStates(task, wasm, first, n, checkpoint);
  }
  return square;
}

/** dY of attention states, which is what they are asked for. @returns its squared norm. */
function writeStates(
  task: FullTask,
  wasm: Wasm,
  first: number,
  n: number,
  checkpoint: () => void,
): number {
  const { plan, batchItem, projection: name, inputGradient: to } = task;
  const { dims, projections, scaling: beta } = plan.problem;
  const { inFeatures } = projections[name];
  const width = name === 'v_proj' ? dims.valueDim : dims.headDim;
  const token = batchItem * (name === 'q_proj' ? dims.queryLength : dims.keyLength) + first;
  const scale = name === 'v_proj' ? 1 : beta;
  wasm.reset();
  const [none, ones, squares] = [width, width, n].map((count) => wasm.alloc(8 * count));
  wasm.f64(none!, width).fill(0);
  wasm.f64(ones!, width).fill(1);
  const mark = wasm.mark();
  let square = 0;
  for (const { place, slot, head } of headsOf(task)) {
    checkpoint();
    wasm.release(mark);
    const rows = gradientRows(task, wasm, place, slot, first, n);
    const scaled = wasm.allocFloats(n * width);
    wasm.fn.combine(n * width, scale, rows, 0, scaled);
    wasm.fn.forms(n, width, scaled, none!, ones!, squares!);
    const ofRows = wasm.f64(squares!, n);
    for (let i = 0; i < n; i++) square += ofRows[i]!;
    const begin = token * inFeatures + head * width;
    const at = wasm.elementAt(to!, begin);
    if (at !== null) wasm.fn.copy_columns(n, width, scaled, width, at, inFeatures);
    else {
      const values = wasm.f32(scaled, n * width);
      for (let i = 0; i < n; i++) to!.set(slice(values, i, width), begin + i * inFeatures);
    }
  }
  return square;
}

function runTokens(
  task: FullTask,
  wasm: Wasm,
  first: number,
  n: number,
  checkpoint: () => void,
): void {
  const { plan, batchItem, projection: name, parts, inputGradient } = task;
  const { dims, inputs, projections, scaling: beta } = plan.problem;
  const { adapter, weight, inFeatures } = projections[name];
  const isQuery = name === 'q_proj';
  const width = name === 'v_proj' ? dims.valueDim : dims.headDim;
  const rank = rankOf(plan.problem, name);
  const length = isQuery ? dims.queryLength : dims.keyLength;
  const token = batchItem * length + first;
  const X = rowsOf(inputs[ROLES[name]], inFeatures, token, n);
  const sizeB = width * roundUp(rank, 8);

  wasm.reset();
  const x = wasm.put(X);
  const low = rank ? lowRank(wasm, projections[name], x, n) : 0;
  const up = wasm.allocFloats(n * rank);
  const dX = wasm.allocFloats(inputGradient ? n * inFeatures : 0);
  wasm.f32(up, n * rank).fill(0);
  if (inputGradient) wasm.f32(dX, n * inFeatures).fill(0);
  const mark = wasm.mark();
  for (const { place, slot, head, index } of headsOf(task)) {
    checkpoint();
    wasm.release(mark);
    const dY = gradientRows(task, wasm, place, slot, first, n);
    if (rank) {
      const B = pack(wasm, slice(adapter!.B.data, head, width * rank), width, rank);
      wasm.fn.gemm(n, rank, width, dY, width, B, up, rank, true);
      product(wasm, dY, width, low, rank, n, slice(parts.B[name]!, index, sizeB));
    }
    if (inputGradient) {
      const W = pack(wasm, slice(weight!.data, head, width * inFeatures), width, inFeatures);
      wasm.fn.gemm(n, inFeatures, width, dY, width, W, dX, inFeatures, true);
    }
  }
  wasm.release(mark);
  if (rank) {
    product(wasm, x, inFeatures, up, rank, n, parts.A[name]!);
    if (inputGradient) {
      const A = pack(wasm, adapter!.A.data, rank, inFeatures);
      const scaled = wasm.f32(up, n * rank);
      for (let k = 0; k < scaled.length; k++) scaled[k]! *= adapter!.scaling;
      wasm.fn.gemm(n, inFeatures, rank, up, rank, A, dX, inFeatures, true);
    }
  }
  if (!inputGradient) return;
  const to = inputGradient.subarray(token * inFeatures, (token + n) * inFeatures);
  const from = wasm.f32(dX, to.length);
  const scale = name === 'v_proj' ? 1 : beta;
  for (let k = 0; k < to.length; k++) to[k]! += scale * from[k]!;
}

/** Heads of the projection in this batch item: their head groups' places, and their own places and numbers. */
function* headsOf({ plan, headGroups, batchItem, projection }: FullTask) {
  const each = projection === 'q_proj' ? plan.group : 1;
  let index = 0;
  const { first, last } = placesOf(plan, headGroups, batchItem);
  for (let place = first; place < last; place++) {
    for (let x = 0; x < each; x++) {
      yield {
        place,
        slot: place * each + x,
        head: headGroups[place]!.sharedHead * each + x,
        index: index++,
      };
    }
  }
}

/** The address of dS K, dS^T Q or P^T G (n, width) of one head, rotated back to before rotary positions. */
function gradientRows(
  { plan, workspace, batchItem, projection }: FullTask,
  wasm: Wasm,
  place: number,
  slot: number,
  first: number,
  n: number,
): number {
  const { dims, rotary } = plan.problem;
  const { queryLength, headDim: d, valueDim: dv } = dims;
  const ofHeadGroup = (of: 'ls' | 'lv', width: number) => {
    const partitions = partitionsOf(plan, of, place * plan.group, plan.group);
    return sumOf(wasm, workspace[of], partitions, first, n, 0, width);
  };
  if (projection === 'v_proj') return ofHeadGroup('lv', dv);
  const head = { first: slot, count: 1, rows: queryLength, width: d };
  const rows =
    projection === 'q_proj' ? sumOf(wasm, workspace.rightQ, head, first, n) : ofHeadGroup('ls', d);
  if (rotary) {
    const { width, cos, sin } = rotaryRows(wasm, rotary, batchItem, first, n);
    wasm.fn.rotate(n, d, width, cos, sin, rows, true);
  }
  return rows;
}
