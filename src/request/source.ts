/** Where queries, keys and values come from: a layer with its inputs, or attention states. */
import type { AttentionKind, AttentionLayer, Dimensions } from '../../workers/problem.js';

export interface Source {
  readonly kind: AttentionKind;
  /** Whether the client's tensors carry a batch dimension, and the answer's are to. */
  readonly batched: boolean;
  readonly dims: Dimensions;
  readonly inputs: AttentionLayer['inputs'];
  readonly projections: AttentionLayer['projections'];
  /** Shape of the attention output, with the batch dimension. */
  readonly outputShape: readonly number[];
}
