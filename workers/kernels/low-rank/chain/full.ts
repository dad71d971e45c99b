/**
 * From rows of dQ, dK or dV at full width to the gradients of the adapter,
 *
 *     d lora_A += (dY B)'X        d lora_B += dY'(X A')
 *
 * and to the rows themselves, when gradients of the inputs are wanted. The rows come in the directions of
 * the cross and rotated by their positions, and leave as they would stand behind the projection; beta and
 * s are left to those who add up.
 */
import type { Real } from '../arithmetic/arithmetic.js';
import { BLOCK } from '../head/block.js';
import type { Layout } from '../head/layout.js';
import type { Rotation } from '../head/rows/rotation.js';
import type { Workspace } from '../head/workspace.js';

export type Role = 'query' | 'key' | 'value';

/** What is needed of the rows of a block beside their gradients. */
interface ProjectedRows {
  readonly count: number;
  readonly index: Int32Array;
  /** X (count, inputs) and X A' (count, r). */
  readonly x: Real;
  readonly low: Real;
  /** null for values, and without rotary positions. */
  readonly rotation: Rotation | null;
}

const FIRST_TENSOR = { query: 0, key: 2, value: 4 } as const;

export function fullSums(
  space: Workspace,
  at: Layout,
  role: Role,
  memory: Real | null,
  capacity = BLOCK,
) {
  const { arithmetic, head, plan } = space;
  const { rank, effective, up } = head[role];
  const { inputs, outputs: width } = effective;
  const hyperbolicCross = {
    query: plan.hyperbolicCross.right,
    key: plan.hyperbolicCross.left,
    value: null,
  }[role];
  const back =
    hyperbolicCross && arithmetic.pack(width, width, transposed(hyperbolicCross.vectors, width));
  const toLow = arithmetic.pack(width, rank, up);
  const rotated = arithmetic.array(capacity * width);
  const thin = arithmetic.array(capacity * rank);
  const first = FIRST_TENSOR[role];
  const sums = [first, first + 1].map((t) => arithmetic.array(at.gradientSizes[t]));
  const totals = [first, first + 1].map((t) => arithmetic.sums(at.gradientSizes[t]));
  return {
    add({ count: n, index, x, low, rotation }: ProjectedRows, rows: Real): void {
      let gradient = rows;
      if (back) {
        arithmetic.product(n, rows, back, rotated);
        gradient = rotated;
      }
      rotation?.back(n, gradient);
      for (let r = 0; memory && r < n; r++) {
        memory.set(gradient.subarray(r * width, (r + 1) * width), index[r] * width);
      }
      if (rank === 0) return;
      arithmetic.product(n, gradient, toLow, thin);
      arithmetic.transposedGemm(rank, inputs, n, thin, x, sums[0], true);
      arithmetic.transposedGemm(width, rank, n, gradient, low, sums[1], true);
      for (const k of [0, 1]) arithmetic.fold(sums[k].length, sums[k], totals[k]);
    },
    save(slot: Float64Array): void {
      for (const k of [0, 1]) slot.set(totals[k], at.gradientAt[first + k]);
    },
  };
}

function transposed(x: Float64Array, n: number): Float64Array {
  return x.map((_, i) => x[(i % n) * n + Math.floor(i / n)]);
}
