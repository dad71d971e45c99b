/** The heads of a problem: their projections are cut out of those of the layer, with the adapters added. */

import { type Job, stage, type Task } from '../../../job.js';
import { keysOf } from '../../../mask.js';
import type { AttentionLayer, AttentionProblem, Projection } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { sharedFloat32, sharedFloat64 } from '../../result.js';
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import type { Head, HeadProjection } from './head.js';

/** A projection of one head that is still to be filled. */
export interface SplitTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'split';
  readonly projection: Projection;
  /** The row of the projection's weight that is the head's first. */
  readonly first: number;
  readonly to: Omit<HeadProjection, 'rows'>;
}

/** All heads, batch item by batch item; a layer without an objective can be planned for. */
export function* splitHeads(
  problem: AttentionLayer & Partial<AttentionProblem>,
  inputGradients = false,
  span?: readonly [number, number],
): Job<Head[], SplitTask> {
  const { dims, projections, inputs, objective } = problem;
  const { batch, heads, keyValueHeads, queryLength, headDim: d, valueDim: dv } = dims;
  const group = heads / keyValueHeads;
  const tasks: SplitTask[] = [];
  const perHead = (projection: Projection, count: number, width: number) => {
    const to = openProjection(projection, count, width);
    tasks.push(
      ...to.map((one, h): SplitTask => {
        return { kernel: 'low_rank', step: 'split', projection, first: h * width, to: one };
      }),
    );
    return to;
  };
  const query = perHead(projections.q_proj, heads, d);
  const key = perHead(projections.k_proj, keyValueHeads, d);
  const value = perHead(projections.v_proj, keyValueHeads, dv);
  yield* stage('split', tasks, span);
  const item = (data: TensorData, b: number) =>
    data.subarray((b * data.length) / batch, ((b + 1) * data.length) / batch);
  return Array.from({ length: batch * heads }, (_, index) => {
    const [b, h] = [Math.floor(index / heads), index % heads];
    const hkv = Math.floor(h / group);
    return {
      batch: b,
      head: h,
      keyValueHead: hkv,
      queryLength,
      keyLength: keysOf(problem, b).last,
      d,
      dv,
      beta: problem.scaling,
      causal: problem.mask.right === 0,
      rotary: problem.rotary ?? null,
      inputGradients,
      query: { ...query[h], rows: item(inputs.query.data, b) },
      key: { ...key[hkv], rows: item(inputs.key.data, b) },
      value: { ...value[hkv], rows: item(inputs.value.data, b) },
      kind: objective?.kind ?? 'grad_output',
      objective: objective ? item(objective.tensor.data, b) : new Float32Array(0),
      objectiveStride: heads * dv,
      objectiveOffset: h * dv,
    };
  });
}

/** All heads in one block: the system hands out large ones clear, smaller ones are cleared by the thread that asks, which deals out all tasks. */
function openProjection(
  { adapter, inFeatures: inputs }: Projection,
  heads: number,
  width: number,
): Omit<HeadProjection, 'rows'>[] {
  const rank = adapter?.rank ?? 0;
  const weight = perHead(sharedFloat32, inputs * width);
  const down = perHead(sharedFloat32, inputs * rank);
  const up = perHead(sharedFloat32, width * rank);
  const bias = perHead(sharedFloat64, width);
  return Array.from({ length: heads }, (_, h) => ({
    effective: { inputs, outputs: width, weight: weight(h), bias: bias(h) },
    rank,
    adapterScaling: adapter?.scaling ?? 0,
    down: down(h),
    up: up(h),
  }));

  function perHead<Data extends Float32Array | Float64Array>(
    allocate: (length: number) => Data,
    size: number,
  ) {
    const all = allocate(heads * size);
    return (h: number) => all.subarray(h * size, (h + 1) * size) as Data;
  }
}

/** Columns of a weight that are in the scratch memory together. */
const COLUMNS = 1024;

/** The rows [first, first + width) of a projection: weight (out, in), A (r, in), B (out, r). */
export function splitHead(arithmetic: Arithmetic, { projection, first, to }: SplitTask): void {
  const { adapter, weight, bias, inFeatures } = projection;
  const { rank, adapterScaling, down, up, effective } = to;
  const width = effective.outputs;
  if (bias) effective.bias.set(bias.data.subarray(first, first + width));
  if (adapter) up.set(adapter.B.data.subarray(first * rank, (first + width) * rank));
  const scaledUp = arithmetic.array(width * rank);
  scaledUp.set(up);
  arithmetic.combine(width * rank, adapterScaling, scaledUp, 0, scaledUp);
  const upTransposed = arithmetic.array(rank * width);
  arithmetic.transpose(width, rank, scaledUp, upTransposed);
  const packedUp = arithmetic.pack(rank, width, upTransposed);
  const most = Math.min(COLUMNS, inFeatures);
  const source = arithmetic.array(Math.max(width, rank) * most);
  const columns = arithmetic.array(most * width);
  const low = arithmetic.array(most * rank);
  for (let from = 0; from < inFeatures; from += COLUMNS) {
    const count = Math.min(COLUMNS, inFeatures - from);
    const transposed = (data: TensorData, row: number, rows: number, result: Float32Array) => {
      for (let r = 0; r < rows; r++) {
        const at = (row + r) * inFeatures + from;
        source.set(data.subarray(at, at + count), r * count);
      }
      arithmetic.transpose(rows, count, source, result);
    };
    if (weight) transposed(weight.data, first, width, columns);
    else for (let c = 0; c < count; c++) columns.fill(0, c * width, (c + 1) * width);
    for (let o = 0; !weight && o < width; o++) {
      if (first + o >= from && first + o < from + count)
        columns[(first + o - from) * width + o] = 1;
    }
    if (adapter) {
      transposed(adapter.A.data, 0, rank, low);
      down.set(low.subarray(0, count * rank), from * rank);
      arithmetic.product(count, low, packedUp, columns, true);
    }
    effective.weight.set(columns.subarray(0, count * width), from * width);
  }
}
