/** What a part of a problem takes of the plan of the whole. */
import type { Job } from '../../job.js';
import { type AttentionLayer, type AttentionProblem, hasAttentionStates } from '../../problem.js';
import { type Cut, type CutNeeds, cutProblem } from '../parts/cut.js';
import { ofHeads, shareOf } from '../parts/take.js';
import type { Head } from './head/head.js';
import type { HeadPlan } from './head/plan.js';
import { type SplitTask, splitHeads } from './head/split.js';
import type { LowRankPlan } from './plan/plan.js';
import type { RunPlan } from './sums.js';

/** heads null: they are split from the part again, which is less than to send them. */
export type PartPlan = Omit<RunPlan, 'heads'> & { readonly heads: readonly Head[] | null };

/** Draws that tell how much the rows of a part scatter. */
const LEAST_DRAWS = 8;

/** Cuts by items and heads only: a row needs sums over all keys, a key those over all rows. */
export const cutByPlan = (layer: AttentionLayer, { flops }: LowRankPlan, needs: CutNeeds): Cut[] =>
  cutProblem(layer, { ...needs, rowsTogether: true }, flops);

/** The rows that a part draws are its items' share: every head that is computed has as many as in the whole. */
export function planOfPart(
  layer: AttentionLayer,
  plan: LowRankPlan,
  cuts: readonly Cut[],
  part: number,
): { readonly plan: PartPlan; readonly flops: number } {
  const cut = cuts[part]!;
  const { items } = cut;
  const share = (items.last - items.first) / layer.dims.batch;
  return {
    plan: {
      heads: cuts.length > 1 ? null : plan.heads,
      headPlans: ofHeads(layer, cut, plan.headPlans).map((head) => withInputs(layer, cut, head)),
      headNorms: ofHeads(layer, cut, plan.headNorms),
      sampledRows: Math.max(LEAST_DRAWS, Math.ceil(plan.sampledRows * share)),
      sampledFeatures: plan.sampledFeatures,
    },
    flops: plan.flops * shareOf(layer, cut),
  };
}

/** Centres of inputs are as wide as these. A part has all of their columns, but for states: those of its heads. */
function withInputs(layer: AttentionLayer, { sharedHeads }: Cut, head: HeadPlan): HeadPlan {
  if (!hasAttentionStates(layer)) return head;
  const { headDim, valueDim } = layer.dims;
  const of = (centre: Float64Array, width: number) =>
    centre.subarray(sharedHeads.first * width, sharedHeads.last * width);
  return {
    ...head,
    centreXK: of(head.centreXK, headDim),
    centreXV: of(head.centreXV, valueDim),
  };
}

export function* headsOfPart(
  layer: AttentionLayer & Partial<AttentionProblem>,
  { heads }: PartPlan,
  inputGradients: boolean,
): Job<readonly Head[], SplitTask> {
  return heads ?? (yield* splitHeads(layer, inputGradients));
}
