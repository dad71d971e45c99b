/** Limits on the structure of a body; the number of bytes is limited before, by the HTTP layer. */
export interface WireLimits {
  /** Maps and arrays inside each other; the root counts as 1. */
  readonly maxDepth: number;
  /** Entries of all maps together, the number of maps, and the entries of lists without numbers. */
  readonly maxKeys: number;
  /** Entries of all arrays together: every number of a nested list is one. */
  readonly maxElements: number;
  /** Arrays, which cost far more memory than numbers: the rows of nested lists. */
  readonly maxArrays: number;
  /** Tensors in the body. */
  readonly maxTensors: number;
  /** Bytes of one map key. */
  readonly maxKeyBytes: number;
  /** Bytes of one string; in JSON, the base64 data of a tensor is a string and is not limited here. */
  readonly maxStringBytes: number;
}

export const DEFAULT_WIRE_LIMITS: WireLimits = {
  maxDepth: 16,
  maxKeys: 1024,
  maxElements: 1_000_000,
  maxArrays: 65_536,
  maxTensors: 64,
  maxKeyBytes: 256,
  maxStringBytes: 65_536,
};

/** Dimensions of one tensor. */
export const MAX_DIMENSIONS = 8;
