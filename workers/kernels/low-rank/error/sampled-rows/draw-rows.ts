/** Which query rows the error estimate looks at. */

import { type Job, stage, type Task } from '../../../../job.js';
import type { AttentionProblem } from '../../../../problem.js';
import { Lease } from '../../../../tensor/shared-memory.js';
import { mixture } from '../../../estimate/draw.js';
import { Random } from '../../../random.js';
import type { Arithmetic } from '../../arithmetic/arithmetic.js';
import { apply, gather, load, minus } from '../../head/affine.js';
import { BLOCK } from '../../head/block.js';
import type { Head } from '../../head/head.js';
import type { Segment } from '../../head/layout.js';
import type { HeadPlan } from '../../head/plan.js';

/** Draws with replacement from all query rows of the batch. */
export interface Draw {
  readonly batch: number;
  /** Position in the list of sampled rows of that batch item. */
  readonly position: number;
  readonly probability: number;
}

export interface Draws {
  readonly draws: readonly Draw[];
  /** Whether every row of the batch was taken once, so that the error is known. */
  readonly complete: boolean;
  /** Rows drawn of each batch item, in rising order. */
  readonly lists: readonly Int32Array[];
}

/**
 * What a row can add to the error of a tensor is at most a constant of the keys times one of these, by the left
 * factor of the tensor: |X_i| |G_i| for the queries' adapter, |q_i| |G_i| for the keys', |G_i| for the
 * values'; and each of them times what the features leave out of the row.
 */
const FAMILIES = 6;

/** What a plan says about the draws. */
interface DrawPlan {
  readonly heads: readonly Head[];
  readonly headPlans: readonly HeadPlan[];
  readonly sampledRows: number;
}

/** Weights (FAMILIES, queryLength) of some rows of a batch item, summed over its heads. */
export interface WeightsTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'weights';
  readonly heads: readonly WeighedHead[];
  readonly segment: Segment;
  readonly weights: readonly Float64Array[];
}

/** Draws with replacement by several weights at once (mixture of estimate/draw.ts). */
export interface DrawTask extends Task<DrawnRow[]> {
  readonly kernel: 'low_rank';
  readonly step: 'draw';
  readonly families: readonly Float64Array[];
  readonly count: number;
  readonly seed: number;
}

interface DrawnRow {
  readonly row: number;
  readonly probability: number;
}

export function draw({ checkpoint }: Arithmetic, { families, count, seed }: DrawTask): DrawnRow[] {
  const sampler = mixture(families, new Random(seed));
  return Array.from({ length: count }, () => {
    checkpoint();
    const row = sampler.draw();
    return { row, probability: sampler.probability(row) };
  });
}

/** The rows of the estimate: all of them once where the plan samples as many, else drawn by what they can add. */
export function* drawRows(
  problem: AttentionProblem,
  plan: DrawPlan,
  { seed }: { readonly seed: number },
): Job<Draws, WeightsTask | DrawTask> {
  const { batch, queryLength } = problem.dims;
  const rows = batch * queryLength;
  const complete = plan.sampledRows >= rows;
  const everyRow = () => Array.from({ length: rows }, (_, row) => ({ row, probability: 1 / rows }));
  const drawn = complete ? everyRow() : yield* drawByWeight(problem, plan, seed);
  const lists = Array.from({ length: batch }, (_, b) => {
    const mine = drawn.filter(({ row }) => Math.floor(row / queryLength) === b);
    return Int32Array.from(new Set(mine.map(({ row }) => row % queryLength))).sort();
  });
  const positions = lists.map((list) => new Map(Array.from(list, (row, k) => [row, k])));
  const draws = drawn.map(({ row, probability }): Draw => {
    const b = Math.floor(row / queryLength);
    return { batch: b, position: positions[b].get(row % queryLength)!, probability };
  });
  return { draws, complete, lists };
}

/** The weights are one block, given back before the chain wants about as much for its sums. */
function* drawByWeight(
  problem: AttentionProblem,
  plan: DrawPlan,
  seed: number,
): Job<DrawnRow[], WeightsTask | DrawTask> {
  const rows = problem.dims.batch * problem.dims.queryLength;
  const memory = new Lease();
  try {
    const block = memory.float64(FAMILIES * rows);
    const weights = Array.from({ length: FAMILIES }, (_, f) =>
      block.subarray(f * rows, (f + 1) * rows),
    );
    return yield* weighAndDraw(problem, plan, seed, weights);
  } finally {
    memory.end();
  }
}

function* weighAndDraw(
  problem: AttentionProblem,
  plan: DrawPlan,
  seed: number,
  weights: readonly Float64Array[],
): Job<DrawnRow[], WeightsTask | DrawTask> {
  const { batch, queryLength, heads: headCount } = problem.dims;
  const step = Math.max(1024, Math.ceil(queryLength / 16));
  yield* stage(
    'weights',
    Array.from({ length: batch }, (_, b) =>
      Array.from(
        { length: Math.ceil(queryLength / step) },
        (_, s): WeightsTask => ({
          ...{ kernel: 'low_rank', step: 'weights' },
          heads: plan.heads.slice(b * headCount, (b + 1) * headCount).map((head, h) => {
            const { residual, centreV } = plan.headPlans[b * headCount + h];
            return { head, residual, centre: head.kind === 'target' ? centreV : null };
          }),
          segment: { from: s * step, to: Math.min(queryLength, (s + 1) * step) },
          weights: weights.map((w) => w.subarray(b * queryLength, (b + 1) * queryLength)),
        }),
      ),
    ).flat(),
    [0, 0.9],
  );
  const task: DrawTask = {
    ...{ kernel: 'low_rank', step: 'draw', families: weights, count: plan.sampledRows },
    seed: seed ^ 0x5eed,
  };
  const [drawn] = yield* stage('draw', [task], [0.9, 1]);
  return drawn;
}

/** A head as far as rows are weighed; centre: of V, which a target is compared with. */
interface WeighedHead {
  readonly head: Head;
  readonly residual: Float32Array;
  readonly centre: Float64Array | null;
}

export function rowWeights(
  arithmetic: Arithmetic,
  { heads, segment: { from, to }, weights }: WeightsTask,
): void {
  for (const family of weights) family.fill(0, from, to);
  const mark = arithmetic.mark();
  for (const { head, residual, centre } of heads) {
    const { query, d, dv } = head;
    const width = query.effective.inputs;
    const toQ = load(arithmetic, width, d, query.effective.weight, query.effective.bias);
    const x = arithmetic.array(BLOCK * width);
    const q = arithmetic.array(BLOCK * d);
    const g = arithmetic.array(BLOCK * dv);
    const [xx, qq, gg] = [0, 1, 2].map(() => arithmetic.sums(BLOCK));
    // In float64: of rows below 10^-20 float32 has no squares.
    const none = arithmetic.sums(Math.max(width, d, dv));
    const ones = arithmetic.sums(none.length).fill(1);
    const minusCentre = centre && minus(arithmetic, centre);
    for (let start = from; start < to; start += BLOCK) {
      const count = Math.min(BLOCK, to - start);
      const row = (r: number) => start + r;
      gather(query.rows, width, row, count, x);
      apply(arithmetic, count, toQ, x, q);
      gather(head.objective, dv, row, count, g, head.objectiveOffset, head.objectiveStride);
      if (minusCentre) arithmetic.addRow(count, dv, minusCentre, g);
      arithmetic.forms(count, width, x, none, ones, xx);
      arithmetic.forms(count, d, q, none, ones, qq);
      arithmetic.forms(count, dv, g, none, ones, gg);
      for (let r = 0; r < count; r++) {
        const i = start + r;
        // A row that the head treats exactly has no error to be found.
        if (!(residual[i] > 0)) continue;
        const size = Math.sqrt(gg[r]);
        [Math.sqrt(xx[r]) * size, Math.sqrt(qq[r]) * size, size].forEach((w, k) => {
          weights[k][i] += w;
          weights[3 + k][i] += residual[i] * w;
        });
      }
    }
    arithmetic.release(mark);
  }
}
