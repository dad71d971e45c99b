/** The norms that decide on which side of the efficiency threshold an input lies. */

/**
 * Largest absolute entries of the composed matrices of a head, or of all heads of a layer. Those of
 * queries and keys include sqrt(beta), so that the paper's theorems (beta = 1) apply to them.
 */
export interface ComposedNorms {
  query_frozen: number;
  query_adapter: number;
  query: number;
  key_frozen: number;
  key_adapter: number;
  key: number;
  value: number;
}

export const ZERO_NORMS: ComposedNorms = {
  query_frozen: 0,
  query_adapter: 0,
  query: 0,
  key_frozen: 0,
  key_adapter: 0,
  key: 0,
  value: 0,
};

/** Those of a layer, from those of its heads. */
export function layerNorms(heads: readonly ComposedNorms[]): ComposedNorms {
  return heads.reduce(largestNorms, ZERO_NORMS);
}

/** Entry by entry the larger. */
export function largestNorms(a: ComposedNorms, b: ComposedNorms): ComposedNorms {
  const largest = { ...a };
  for (const name of Object.keys(a) as (keyof ComposedNorms)[]) {
    largest[name] = Math.max(a[name], b[name]);
  }
  return largest;
}
