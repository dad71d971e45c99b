/** One attention head of one batch item: the unit that the low-rank kernel works on. */
import type { Rotary } from '../../../problem.js';
import type { TensorData } from '../../../tensor/tensor.js';

/** rows X (n, inputs) -> X weight + bias; weight (inputs, outputs) row-major, over shared memory. */
export interface Affine {
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: Float32Array;
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
  readonly down: Float32Array;
  /** Rows of lora_B of this head (width, rank). */
  readonly up: Float32Array;
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

/** Whether any gradient of the head comes from dS. */
export function wantsScores(head: Head): boolean {
  return head.inputGradients || scoreWidth(head) > 0;
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

/** The head with nothing to differentiate; 1/2 |O|^2 is its loss. */
export function outputHead(head: Head): Head {
  const frozen = (projection: HeadProjection) => ({ ...projection, rank: 0 });
  return {
    ...head,
    query: frozen(head.query),
    key: frozen(head.key),
    value: frozen(head.value),
    inputGradients: false,
    kind: 'target',
    objective: new Float32Array(0),
  };
}
