/** References: `{"$ref": "sha256:<hex>"}` in place of a tensor that the service keeps already. */

import { refuse } from './tensor-bytes.js';
import { appendPointer, placeName } from './wire-error.js';
import type { WireMap } from './wire-map.js';

export const REFERENCE_KEY = '$ref';

const NAME = /^sha256:[0-9a-f]{64}$/;

export class TensorReference {
  /** @param name 'sha256:' and the digest of the tensor (see digest.ts) in 64 lower-case hex digits. */
  constructor(readonly name: string) {}
}

/** @param digest 64 lower-case hex digits. */
export function referenceName(digest: string): string {
  return `sha256:${digest}`;
}

export function isReferenceMap(map: WireMap): boolean {
  return map.entries.has(REFERENCE_KEY);
}

/** Throws WireError (invalid-tensor) when the map holds more than a well-formed reference. */
export function readReference(map: WireMap, pointer: string): TensorReference {
  const other = [...map.entries.keys()].find((key) => key !== REFERENCE_KEY);
  if (other !== undefined) {
    throw refuse(
      appendPointer(pointer, other),
      `The reference at ${placeName(pointer)} holds another key beside ${REFERENCE_KEY}; it must hold nothing else.`,
    );
  }
  const name = map.entries.get(REFERENCE_KEY);
  if (typeof name === 'string' && NAME.test(name)) return new TensorReference(name);
  throw refuse(
    appendPointer(pointer, REFERENCE_KEY),
    `The reference at ${placeName(pointer)} must be sha256: and 64 lower-case hexadecimal digits.`,
  );
}
