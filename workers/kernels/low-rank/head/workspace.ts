/** What every pass over the rows of a head has at hand. */
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { type FeatureBlock, featureBlock } from '../features/evaluate.js';
import { BLOCK } from './block.js';
import type { Head } from './head.js';
import type { HeadPlan } from './plan.js';

export interface Workspace {
  readonly arithmetic: Arithmetic;
  readonly head: Head;
  readonly plan: HeadPlan;
  readonly isOutlierQuery: (row: number) => boolean;
  readonly isOutlierKey: (row: number) => boolean;
  readonly features: FeatureBlock;
  readonly weights: Float64Array;
}

/** `evaluated`: features that are evaluated, the m used by default; the certificate wants all. */
export function openWorkspace(
  arithmetic: Arithmetic,
  head: Head,
  plan: HeadPlan,
  evaluated = plan.m,
): Workspace {
  return {
    arithmetic,
    head,
    plan,
    isOutlierQuery: membership(plan.outlierQueries),
    isOutlierKey: membership(plan.outlierKeys),
    features: featureBlock(arithmetic, plan.features, BLOCK, evaluated),
    weights: arithmetic.sums(BLOCK),
  };
}

function membership(rows: Int32Array): (row: number) => boolean {
  const set = new Set(rows);
  return (row) => set.has(row);
}
