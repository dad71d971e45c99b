/** A caller's value in an error message: short, whatever its size, and cut before it is made a text. */
import { isEncodedTensor } from '../../../workers/tensor/encoded.js';
import { TensorReference } from './reference.js';

const LONGEST = 60;

export function quote(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > LONGEST ? `${value.slice(0, LONGEST - 3)}...` : value);
    case 'number':
    case 'boolean':
      return String(value);
    case 'object':
      if (value === null) return 'null';
      if (isEncodedTensor(value)) return 'a tensor';
      if (value instanceof TensorReference) return 'a reference';
      if (value instanceof Uint8Array) return 'raw bytes';
      return Array.isArray(value) ? 'a list' : 'a map';
    default:
      return 'nothing';
  }
}
