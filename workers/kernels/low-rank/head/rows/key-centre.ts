/**
 * What all keys have in common is taken from X^K before it is projected. Rows of P do not feel it, and rows of dS add up
 * to zero, so neither do the gradients; but a channel that is large in every row would cost float32 its digits.
 * Under rotary positions every token is rotated by another angle: there it stays.
 */
import type { Real } from '../../arithmetic/arithmetic.js';
import { minus } from '../affine.js';
import type { Head } from '../head.js';
import type { HeadPlan } from '../plan.js';
import type { Workspace } from '../workspace.js';

/** Takes the centre from rows (count, inputs) of X^K, in place. */
export function keyCentre({
  arithmetic,
  head,
  plan,
}: Pick<Workspace, 'arithmetic' | 'head'> & { readonly plan: Pick<HeadPlan, 'centreXK'> }): (
  count: number,
  xk: Real,
) => void {
  if (head.rotary) return () => {};
  const minusCentre = minus(arithmetic, plan.centreXK);
  return (count, xk) => arithmetic.addRow(count, minusCentre.length, minusCentre, xk);
}

/** What is added to a projected key; null: nothing, for it is common to all. */
export function keyBias({ rotary, key }: Head): Float64Array | null {
  return rotary ? key.effective.bias : null;
}
