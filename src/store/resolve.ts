/** References in a body become the tensors of the store. */

import { isEncodedTensor } from '../../workers/tensor/encoded.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import { TensorReference } from '../wire/tree/reference.js';
import { appendPointer } from '../wire/tree/wire-error.js';

/** Names of all references in a body. */
export function referencesIn(body: unknown): Set<string> {
  const names = new Set<string>();
  const visit = (value: unknown): void => {
    if (value instanceof TensorReference) names.add(value.name);
    else if (typeof value !== 'object' || value === null || isEncodedTensor(value)) return;
    else Object.values(value).forEach(visit);
  };
  visit(body);
  return names;
}

/** @returns undefined when the store does not have it. */
type Lookup = (name: string) => Tensor | undefined;

/**
 * @param body as decoded: maps, lists, tensors and references.
 * @returns a copy with every reference replaced.
 * @throws {Problem} missing-tensors, listing every reference that the store does not have.
 */
export function resolveReferences(body: unknown, lookup: Lookup): unknown {
  /** Name and the first pointer to it, in document order. */
  const missing = new Map<string, string>();
  const resolve = (value: unknown, pointer: string): unknown => {
    if (value instanceof TensorReference) {
      const tensor = lookup(value.name);
      if (!tensor && !missing.has(value.name)) missing.set(value.name, pointer);
      return tensor;
    }
    if (typeof value !== 'object' || value === null || isEncodedTensor(value)) return value;
    if (Array.isArray(value)) {
      return value.map((item, index) => resolve(item, appendPointer(pointer, index)));
    }
    const copy: Record<string, unknown> = Object.create(null);
    for (const [key, item] of Object.entries(value)) {
      copy[key] = resolve(item, appendPointer(pointer, key));
    }
    return copy;
  };
  const resolved = resolve(body, '');
  if (missing.size > 0) {
    const [[, pointer]] = missing;
    throw new Problem(
      'missing-tensors',
      missing.size === 1
        ? 'The store does not have the tensor of one reference; PUT it and send the request again.'
        : `The store does not have the tensors of ${missing.size} references; PUT them and send the request again.`,
      { pointer, missing: [...missing.keys()] },
    );
  }
  return resolved;
}
