/**
 * An attention layer and a gradient problem on it, validated and typed: the input of every kernel.
 *
 * Shapes use B batch items, Lq and Lk rows, H query heads and Hkv key/value heads of width d (values:
 * dv), r the rank of an adapter. Layout is that of PyTorch and PEFT: `weight (out, in)`,
 * `lora_A (r, in)`, `lora_B (out, r)`.
 */
import type { Mask } from './mask.js';
import type { Tensor } from './tensor/tensor.js';

export const PROJECTIONS = ['q_proj', 'k_proj', 'v_proj'] as const;
export type ProjectionName = (typeof PROJECTIONS)[number];

export interface Adapter {
  /** (r, in) */
  readonly A: Tensor;
  /** (out, r) */
  readonly B: Tensor;
  readonly rank: number;
  /** s = lora_alpha / r, or lora_alpha / sqrt(r) with rank-stabilised LoRA. */
  readonly scaling: number;
}

export interface Projection {
  /**
   * (out, in); out = H d, Hkv d or Hkv dv. null: the identity, for attention states that come projected: head h
   * of the output is columns [h width, (h + 1) width) of the input. It has no bias and no adapter.
   */
  readonly weight: Tensor | null;
  /** (out,) */
  readonly bias: Tensor | null;
  /** null: this projection is frozen and gets no gradient. */
  readonly adapter: Adapter | null;
  readonly outFeatures: number;
  readonly inFeatures: number;
}

/** Rotary positions: the first r channels of queries and keys of token l are rotated by row l of the tables. */
export interface Rotary {
  /** (B, L, r), or (1, L, r) for all items of a batch. */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

export interface Dimensions {
  readonly batch: number;
  readonly queryLength: number;
  readonly keyLength: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  /** d, width of a query or key head. */
  readonly headDim: number;
  /** dv, width of a value head. */
  readonly valueDim: number;
}

/** How queries, keys and values meet, wherever they come from. */
export interface Attention {
  readonly dims: Dimensions;
  /** beta: S = beta Q K^T. Positive. */
  readonly scaling: number;
  readonly mask: Mask;
  /** c: S = c tanh(beta Q K^T / c). Absent: no cap. */
  readonly softcap?: number | undefined;
  /** (H): a logit more in the softmax of each row of a head, without a value. It is not scaled. */
  readonly sinks?: Tensor;
}

/** A layer with its inputs: enough for the scores, the norms and the plan. */
export interface AttentionLayer extends Attention {
  /**
   * X^Q, X^K, X^V, each (B, L, in). For self-attention all three are the same Tensor object.
   */
  readonly inputs: { readonly query: Tensor; readonly key: Tensor; readonly value: Tensor };
  readonly projections: Readonly<Record<ProjectionName, Projection>>;
  /** Applied to queries and keys between projection and scores; needs Lq = Lk and an even r. */
  readonly rotary?: Rotary;
}

/** target: loss = 1/2 ||O - Y||_F^2; grad_output: dLoss/dO. (B, Lq, H dv). */
export interface Objective {
  readonly kind: 'target' | 'grad_output';
  readonly tensor: Tensor;
}

/** A layer and what is to be differentiated. */
export interface AttentionProblem extends AttentionLayer {
  readonly objective: Objective;
  /** What the client knows of its forward pass on attention states. */
  readonly known?: KnownForward;
  /** What attention states were projected from: errors are then those of the gradients of the weights. */
  readonly projectedFrom?: ProjectedFrom;
}

/** Rows X (B, L, in) that entered each projection of attention states; absent: not known. */
export interface ProjectedFrom {
  readonly query?: Tensor;
  readonly key?: Tensor;
  readonly value?: Tensor;
  /** Positions by which queries and keys were rotated afterwards. */
  readonly rotary?: Rotary;
}

export interface KnownForward {
  /** (B, H, Lq): logarithm of the sum of e^S over the keys that a row sees, and the sink. */
  readonly logSumExp?: Tensor;
  /** O, (B, Lq, H, dv). */
  readonly output?: Tensor;
}

export interface Contradiction {
  readonly name: 'log_sum_exp' | 'attention_output';
  readonly batchItem: number;
  readonly head: number;
  readonly row: number;
}

/**
 * The inputs in the client's names: one tensor for self-attention, three for cross-attention, and three for
 * attention states, which have no projections.
 */
export const STATES = {
  self: { query: 'hidden_states', key: 'hidden_states', value: 'hidden_states' },
  cross: { query: 'query_states', key: 'key_states', value: 'value_states' },
  attention: { query: 'query', key: 'key', value: 'value' },
} as const;
export type AttentionKind = keyof typeof STATES;

/** Whether the inputs of a layer are attention states, which have no projections. */
export const hasAttentionStates = ({ projections }: AttentionLayer): boolean =>
  projections.q_proj.weight === null;

export type StatesName = (typeof STATES)[AttentionKind]['query' | 'key' | 'value'];
