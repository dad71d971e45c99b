/** A plan before anything is known of single rows. */
import type { Task } from '../../../job.js';
import { shared } from '../../../tensor/shared-memory.js';
import { firstFeatures } from '../features/features.js';
import { hyperbolicCross } from '../features/hyperbolic-cross.js';
import { times } from '../head/affine.js';
import type { Head } from '../head/head.js';
import type { HeadPlan } from '../head/plan.js';
import type { Basis } from './basis.js';

export interface DraftTask extends Task<HeadPlan> {
  readonly kernel: 'low_rank';
  readonly step: 'draft';
  readonly head: Head;
  readonly basis: Basis;
  readonly m: number;
}

/** The next features, behind those used, from which the certificate takes its operator norm. */
export const NEXT_FEATURES = 128;

export function draft({ head, basis, m }: DraftTask): HeadPlan {
  return shared(draftPlan(head, basis, m, NEXT_FEATURES));
}

/** A plan without outliers, its weights not yet scaled. */
export function draftPlan(head: Head, basis: Basis, m: number, nextFeatures: number): HeadPlan {
  const features = firstFeatures(basis.features, m + nextFeatures);
  const { value } = head;
  const { weight, bias } = value.effective;
  const used = Math.min(m, features.size);
  const { right, left } = basis.directions;
  return {
    balance: basis.balance,
    m: used,
    features,
    drawnFeatures: null,
    conditionalMean: basis.conditionalMean,
    hyperbolicCross: {
      right: right && hyperbolicCross(right, features, used),
      left: left && hyperbolicCross(left, features, used),
    },
    outlierQueries: new Int32Array(0),
    outlierKeys: new Int32Array(0),
    logWeightShift: 0,
    residual: new Float32Array(0),
    centreV: times(basis.centreXV, weight, head.dv).map((x, a) => x + bias[a]),
    centreXK: basis.centreXK,
    centreXV: basis.centreXV,
    centreVA: times(basis.centreXV, value.down, value.rank),
  };
}
