/** One attention head of one batch item: the unit that the low-rank kernel works on. */
import {
  type AttentionLayer,
  type AttentionProblem,
  keysOf,
  type Projection,
  type Rotary,
} from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';

/** rows X (n, inputs) -> X weight + bias; weight (inputs, outputs) row-major, over shared memory. */
export interface Affine {
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: Float64Array;
  readonly bias: Float64Array;
}

/** Projection of one head with its adapter: effective = weight + s B A, transposed and cut to the head. */
export interface HeadProjection {
  /** X^Q, X^K or X^V of the batch item: (n, inputs). */
  readonly rows: TensorData;
  readonly effective: Affine;
  /** Rank; 0 when the projection is frozen. */
  readonly rank: number;
  readonly adapterScaling: number;
  /** lora_A transposed (inputs, rank). */
  readonly down: Float64Array;
  /** Rows of lora_B of this head (width, rank). */
  readonly up: Float64Array;
}

export interface Head {
  readonly batch: number;
  readonly head: number;
  readonly keyValueHead: number;
  readonly queryLength: number;
  /** Keys of the batch item that are no padding. */
  readonly keyLength: number;
  readonly d: number;
  readonly dv: number;
  readonly beta: number;
  readonly causal: boolean;
  /** Between the projections of queries and keys and the scores. */
  readonly rotary: Rotary | null;
  /** Gradients of the inputs are wanted: dQ, dK and dV are formed whatever is adapted. */
  readonly inputGradients: boolean;
  readonly query: HeadProjection;
  readonly key: HeadProjection;
  readonly value: HeadProjection;
  readonly kind: 'target' | 'grad_output';
  /** Y or G of the batch item: row i of this head starts at i objectiveStride + objectiveOffset. */
  readonly objective: TensorData;
  readonly objectiveStride: number;
  readonly objectiveOffset: number;
}

/** Ranks r_q + r_k of a head: width of the thin factors of dS on either side. */
export function scoreWidth(head: Head): number {
  return head.query.rank + head.key.rank;
}

/**
 * Which of dS K, dS'Q and P'G are formed at the full width of the head. A rotation stands between the
 * scores and the adapters of queries and keys, and gradients of the inputs need all three; else products
 * with thin factors do.
 */
export function fullWidth({ rotary, inputGradients, query, key }: Head) {
  return {
    scores: inputGradients || rotary !== null,
    query: inputGradients || (rotary !== null && query.rank > 0),
    key: inputGradients || (rotary !== null && key.rank > 0),
    value: inputGradients,
  };
}

/** All heads of a problem, batch item by batch item; a layer without an objective can be planned for. */
export function splitHeads(
  problem: AttentionLayer & Partial<AttentionProblem>,
  inputGradients = false,
): Head[] {
  const { dims, projections, inputs, objective } = problem;
  const { batch, heads, keyValueHeads, queryLength, headDim: d, valueDim: dv } = dims;
  const group = heads / keyValueHeads;
  const result: Head[] = [];
  const perHead = (p: Projection, count: number, width: number) =>
    Array.from({ length: count }, (_, h) => cut(p, h, width));
  const query = perHead(projections.q_proj, heads, d);
  const key = perHead(projections.k_proj, keyValueHeads, d);
  const value = perHead(projections.v_proj, keyValueHeads, dv);
  const item = (data: TensorData, b: number) =>
    data.subarray((b * data.length) / batch, ((b + 1) * data.length) / batch);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const hkv = Math.floor(h / group);
      result.push({
        batch: b,
        head: h,
        keyValueHead: hkv,
        queryLength,
        keyLength: keysOf(problem, b),
        d,
        dv,
        beta: problem.scaling,
        causal: problem.causal,
        rotary: problem.rotary ?? null,
        inputGradients,
        query: { ...query[h], rows: item(inputs.query.data, b) },
        key: { ...key[hkv], rows: item(inputs.key.data, b) },
        value: { ...value[hkv], rows: item(inputs.value.data, b) },
        kind: objective?.kind ?? 'grad_output',
        objective: objective ? item(objective.tensor.data, b) : new Float64Array(0),
        objectiveStride: heads * dv,
        objectiveOffset: h * dv,
      });
    }
  }
  return result;
}

function shared(n: number): Float64Array {
  return new Float64Array(new SharedArrayBuffer(8 * n));
}

/** The rows [h width, (h + 1) width) of a projection: weight (out, in), A (r, in), B (out, r). */
function cut(projection: Projection, h: number, width: number): Omit<HeadProjection, 'rows'> {
  const { adapter, weight, bias, inFeatures: inputs } = projection;
  const rank = adapter?.rank ?? 0;
  const scaling = adapter?.scaling ?? 0;
  const down = shared(inputs * rank);
  const up = shared(width * rank);
  const effective = shared(inputs * width);
  const first = h * width;
  if (adapter) {
    for (let r = 0; r < rank; r++) {
      for (let c = 0; c < inputs; c++) down[c * rank + r] = adapter.A.data[r * inputs + c];
    }
    for (let o = 0; o < width * rank; o++) up[o] = adapter.B.data[first * rank + o];
  }
  for (let o = 0; o < width; o++) {
    for (let c = 0; c < inputs; c++) {
      let low = 0;
      for (let r = 0; r < rank; r++) low += up[o * rank + r] * down[c * rank + r];
      effective[c * width + o] = weight.data[(first + o) * inputs + c] + scaling * low;
    }
  }
  const shift = shared(width);
  if (bias) for (let o = 0; o < width; o++) shift[o] = bias.data[first + o];
  return {
    effective: { inputs, outputs: width, weight: effective, bias: shift },
    rank,
    adapterScaling: scaling,
    down,
    up,
  };
}
