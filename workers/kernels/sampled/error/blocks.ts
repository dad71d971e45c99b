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

/** A head that is drawn, and the variance that its plan expects of it. */
interface DrawnHead extends Omit<PartitionOfHead, 'partition'> {
  readonly variance: number;
}

/** Figures of the whole problem, the same for all of its parts and waves. */
export interface MeasureOptions {
  /** Blocks that are drawn, and the sum of the variances of their heads. */
  readonly blocks: number;
  readonly variance: number;
  readonly seed: number;
}

/**
 * (head, block): the probability with which a block is measured where it is, else 0. A third of them are spread evenly, a third
 * by |G|^2, a third by the variance that the plan expects of the head: a single head may make nearly all of the error.
 * Systematically in the order of the blocks.
 *
 * @param heads of a wave. @param sizes (head, Lq): |G_i|^2.
 */
export function chooseMeasured(
  plan: ExactPlan,
  heads: readonly DrawnHead[],
  sizes: Float32Array,
  { blocks: ofAll, variance: ofAllHeads, seed }: MeasureOptions,
): Float32Array {
  const { queryLength } = plan.problem.dims;
  const blocks = heads.flatMap(({ place, headGroup, variance }) => {
    const seen = Array.from({ length: plan.blocks }, (_, block) => block).filter((block) =>
      hasFarKeys(plan, headGroup.batchItem, block),
    );
    return seen.map((block) => ({ place, block, variance: variance / seen.length }));
  });
  const weights = blocks.map(({ place, block }) => {
    const rows = slice(sizes, place, queryLength).subarray(block * ROWS, (block + 1) * ROWS);
    return rows.reduce((sum, x) => sum + x, 0);
  });
  const total = weights.reduce((sum, x) => sum + x, 0);
  const places = Math.max(0, ...heads.map(({ place }) => place + 1));
  const chosen = sharedFloat32(roundUp(places * plan.blocks, 4));
  const count = measuredOf(ofAll);
  let sum = new Random(seed).uniform();
  blocks.forEach(({ place, block, variance }, k) => {
    const even = 1 / ofAll;
    const byGradient = total > 0 ? (even * blocks.length * weights[k]!) / total : even;
    const byVariance = ofAllHeads > 0 ? variance / ofAllHeads : even;
    // Where no more are drawn than are measured, none is left out: the error may be in a single one.
    const probability =
      count < ofAll ? Math.min(1, (count / 3) * (even + byGradient + byVariance)) : 1;
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
