/** Rules between shapes; every failure names both sides and the rule. */

import type { GivenTensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';

/** '/q_proj/lora_A' reads as 'q_proj.lora_A' in a sentence; '' is a body that is a tensor. */
export function nameOf(pointer: string): string {
  return pointer === '' ? 'The tensor' : pointer.slice(1).replaceAll('/', '.');
}

export function formatShape(shape: readonly number[]): string {
  return `(${shape.join(', ')}${shape.length === 1 ? ',' : ''})`;
}

export function shapeMismatch(pointer: string, tensor: GivenTensor, rule: string): Problem {
  return new Problem(
    'shape-mismatch',
    `${nameOf(pointer)} has shape ${formatShape(tensor.shape)}; ${rule}`,
    { pointer },
  );
}

/** @throws {Problem} unless the tensor has one of the allowed numbers of dimensions. */
export function requireDimensions(
  pointer: string,
  tensor: GivenTensor,
  allowed: readonly number[],
  meaning: string,
): void {
  if (allowed.includes(tensor.shape.length)) return;
  const count = allowed.join(' or ');
  throw shapeMismatch(pointer, tensor, `${count} dimensions are needed: ${meaning}.`);
}

/** @throws {Problem} unless dimension `axis` has the expected size. `source` says where that is from. */
export function requireSize(
  pointer: string,
  tensor: GivenTensor,
  axis: number,
  expected: number,
  source: string,
): void {
  if (tensor.shape[axis] === expected) return;
  const which = axis === 0 ? 'first' : axis === tensor.shape.length - 1 ? 'last' : 'middle';
  throw shapeMismatch(pointer, tensor, `its ${which} dimension must be ${expected} (${source}).`);
}
