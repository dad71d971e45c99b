import { type EncodedTensor, isEncodedTensor } from '../../workers/tensor/encoded.js';

/**
 * A copy of an answer (plain objects, arrays, strings, numbers, booleans, null, encoded tensors) with
 * each tensor replaced by what its format writes for it, and NaN and infinity by null, which JSON has
 * no other word for; undefined entries of an object are left out. Throws TypeError for anything that
 * is not data, a bare typed array among it, since encoders write those wrongly.
 */
export function renderAnswer(value: unknown, tensor: (tensor: EncodedTensor) => unknown): unknown {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (isEncodedTensor(value)) return tensor(value);
  if (Array.isArray(value)) return value.map((item) => renderAnswer(item ?? null, tensor));
  if (typeof value === 'object') {
    const prototype = Object.getPrototypeOf(value);
    if (prototype === null || prototype === Object.prototype) {
      const copy: Record<string, unknown> = {};
      for (const key of Object.keys(value)) {
        const item = (value as Record<string, unknown>)[key];
        if (item !== undefined) copy[key] = renderAnswer(item, tensor);
      }
      return copy;
    }
  }
  throw new TypeError(`an answer cannot hold ${Object.prototype.toString.call(value)}`);
}
