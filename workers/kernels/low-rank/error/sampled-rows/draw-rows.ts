/** Which query rows the error estimate looks at. */

import type { Job } from '../../../../job.js';
import type { AttentionProblem } from '../../../../problem.js';
import type { Lease } from '../../../../tensor/shared-memory.js';
import type { TensorData } from '../../../../tensor/tensor.js';
import { Random } from '../../../random.js';
import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import type { HeadResult } from '../../chain/chain.js';
import type { Head } from '../../head/head.js';
import { BLOCK } from '../../head/rows.js';
import type { LowRankPlan } from '../../plan/plan.js';
import type { LowRankTask } from '../../task.js';
import type { PilotHead } from '../certificate/certificate-pilot.js';
import { proportional } from './draw.js';

/** Draws with replacement from all query rows of the batch. */
export interface Draw {
  readonly batch: number;
  /** Position in the list of sampled rows of that batch item. */
  readonly position: number;
  readonly probability: number;
}

export interface Draws {
  readonly draws: readonly Draw[];
  /** Rows drawn of each batch item, in rising order. */
  readonly lists: readonly Int32Array[];
}

/**
 * Shares of the draws: uniform, so that no row is without a chance; and by what the features leave out
 * of a row, since a single row that they spoil can be all of the error.
 */
const UNIFORM = 0.1;
const RISKY = 0.45;

/**
 * Rows drawn with probability proportional to |X_i| |G_i|, to the same times their risk, and uniformly; in the
 * same stage the pilots, which nothing else waits for.
 */
export function* drawRows(
  problem: AttentionProblem,
  plan: LowRankPlan,
  { seed }: { readonly seed: number },
  pilots: readonly PilotHead[],
  memory: Lease,
): Job<{ draws: Draws; piloted: readonly HeadResult[] }, LowRankTask> {
  const { batch, queryLength, heads: headCount, valueDim } = problem.dims;
  const weights = memory.float64(batch * queryLength);
  const risky = memory.float64(batch * queryLength);
  const centre = new Float64Array(headCount * valueDim);
  if (problem.objective.kind === 'target') {
    for (let h = 0; h < headCount; h++) centre.set(plan.headPlans[h].centreV, h * valueDim);
  }
  const step = Math.max(1024, Math.ceil(queryLength / 16));
  const pilotTasks = pilots.map((pilot) => ({
    kernel: 'low_rank' as const,
    step: 'pilot' as const,
    pilot,
  }));
  const weighTasks = Array.from({ length: batch }, (_, b) =>
    Array.from({ length: Math.ceil(queryLength / step) }, (_, s) => ({
      kernel: 'low_rank' as const,
      step: 'weights' as const,
      heads: plan.heads.slice(b * headCount, (b + 1) * headCount).map((head, h) => ({
        head,
        risk: plan.headPlans[b * headCount + h].risk,
      })),
      centre,
      segment: { from: s * step, to: Math.min(queryLength, (s + 1) * step) },
      weights: weights.subarray(b * queryLength, (b + 1) * queryLength),
      risky: risky.subarray(b * queryLength, (b + 1) * queryLength),
    })),
  ).flat();
  const results = yield { name: 'weights', tasks: [...pilotTasks, ...weighTasks] };
  const piloted = results.slice(0, pilots.length) as HeadResult[];
  const random = new Random(seed ^ 0x5eed);
  const uniform = { share: UNIFORM, probability: () => 1 / weights.length };
  const ways = [
    { ...uniform, draw: () => random.integer(weights.length) },
    { share: RISKY, ...proportional(risky, random) },
    { share: 1 - UNIFORM - RISKY, ...proportional(weights, random) },
  ];
  const probability = (row: number) =>
    ways.reduce((sum, way) => sum + way.share * way.probability(row), 0);
  const drawn = Array.from({ length: plan.sampledRows }, () => {
    let left = random.uniform();
    const way = ways.find(({ share }) => {
      left -= share;
      return left < 0;
    });
    return (way ?? ways[0]).draw();
  });
  const lists = Array.from({ length: batch }, (_, b) => {
    const rows = new Set(
      drawn.filter((row) => Math.floor(row / queryLength) === b).map((row) => row % queryLength),
    );
    return Int32Array.from(rows).sort();
  });
  const draws = drawn.map((row) => {
    const b = Math.floor(row / queryLength);
    return {
      batch: b,
      position: lists[b].indexOf(row % queryLength),
      probability: probability(row),
    };
  });
  return { draws: { draws, lists }, piloted };
}

/**
 * Weights of the rows of a batch item for the draw: |X^Q_i| |G_i| (for a target |X^Q_i| |Y_i - mean|), and
 * the same times what the features of its heads leave out of the row.
 */
export function rowWeights(
  arithmetic: Arithmetic,
  heads: readonly { readonly head: Head; readonly risk: Float32Array }[],
  centre: Float64Array,
  from: number,
  to: number,
  weights: Float64Array,
  risky: Float64Array,
): void {
  const [{ head }] = heads;
  const squares = (x: TensorData, width: number, shift: Float64Array | null) => {
    const block = arithmetic.array(BLOCK * width);
    const minusCentre = arithmetic.array(width);
    if (shift) minusCentre.set(shift.map((a) => -a));
    const out = arithmetic.array(BLOCK);
    return (start: number, count: number): Real => {
      block.set(x.subarray(start * width, (start + count) * width));
      if (shift) arithmetic.addRow(count, width, minusCentre, block);
      arithmetic.rowDots(count, width, block, block, out);
      return out;
    };
  };
  const inputs = squares(head.query.rows, head.query.effective.inputs, null);
  const objectives = squares(head.objective, head.objectiveStride, centre);
  for (let start = from; start < to; start += BLOCK) {
    const count = Math.min(BLOCK, to - start);
    const [x, g] = [inputs(start, count), objectives(start, count)];
    for (let r = 0; r < count; r++) {
      const i = start + r;
      let risk = 0;
      for (const { risk: share } of heads) risk += share[i];
      // A row that every head treats exactly has no error to be found.
      weights[i] = risk > 0 ? Math.sqrt(x[r]) * Math.sqrt(g[r]) : 0;
      risky[i] = risk * weights[i];
    }
  }
}
