/** Which blocks of rows are measured: computed with all their keys beside the drawn ones. */
import { type ExactPlan, roundUp } from '../../attention/plan.js';
import type { PartitionOfHead } from '../../attention/task.js';
import { ROWS } from '../../inner/block.js';
import { slice } from '../../inner/operands.js';
import { Random } from '../../random.js';
import { sharedFloat32 } from '../../result.js';
import { splitKeys } from '../attend.js';

/** Blocks that are measured: how well they tell the error does not depend on how many others there are. */
const MEASURED = 28;

export const measuredOf = (blocks: number): number => Math.min(MEASURED, blocks);

/** Of the probability of a block, the share that does not depend on its gradient G. */
const EVEN = 0.5;

/**
 * (head, block): the probability with which a block is measured where it is, else 0. Half of them are spread evenly, half by
 * |G|^2, systematically in the order of the blocks.
 *
 * @param heads that are drawn, of a wave. @param sizes (head, Lq): |G_i|^2. @param count of blocks on average.
 */
export function chooseMeasured(
  plan: ExactPlan,
  heads: readonly Omit<PartitionOfHead, 'partition'>[],
  sizes: Float32Array,
  { count, seed }: { readonly count: number; readonly seed: number },
): Float32Array {
  const { queryLength } = plan.problem.dims;
  const all = heads.flatMap(({ place, headGroup }) =>
    Array.from({ length: plan.blocks }, (_, block) => ({ place, headGroup, block })),
  );
  const blocks = all.filter(({ headGroup, block }) => hasFarKeys(plan, headGroup.batchItem, block));
  const weights = blocks.map(({ place, block }) => {
    const rows = slice(sizes, place, queryLength).subarray(block * ROWS, (block + 1) * ROWS);
    return rows.reduce((sum, x) => sum + x, 0);
  });
  const total = weights.reduce((sum, x) => sum + x, 0);
  const places = Math.max(0, ...heads.map(({ place }) => place + 1));
  const chosen = sharedFloat32(roundUp(places * plan.blocks, 4));
  let sum = new Random(seed).uniform();
  blocks.forEach(({ place, block }, k) => {
    const share = EVEN / blocks.length + ((1 - EVEN) * weights[k]!) / total;
    const probability = Math.min(1, count * share);
    const before = Math.floor(sum);
    sum += probability;
    if (Math.floor(sum) > before) chosen[place * plan.blocks + block] = probability;
  });
  return chosen;
}

/** Whether a block sees keys that are not near. */
function hasFarKeys({ problem }: ExactPlan, batchItem: number, block: number): boolean {
  const last = Math.min((block + 1) * ROWS, problem.dims.queryLength);
  return splitKeys(problem, batchItem, { first: block * ROWS, last }).far.length > 0;
}
