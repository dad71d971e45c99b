/** Every part that another machine can be given, and the job that it is. */
import type { Job } from '../job.js';
import { type ForwardPart, forwardOf } from '../kernels/exact/forward.js';
import { type SumsPart, sumsOf } from '../kernels/exact/gradient.js';
import { type LowRankForwardPart, lowRankForwardOf } from '../kernels/low-rank/forward-job.js';
import { type LowRankPart, lowRankOf } from '../kernels/low-rank/job.js';
import {
  type ReferenceForwardPart,
  type ReferencePart,
  referenceForwardOf,
  referenceOf,
} from '../kernels/reference/parts.js';
import { type SampledPart, sampledOf } from '../kernels/sampled/job.js';

export type AnyPart =
  | SumsPart
  | ForwardPart
  | ReferencePart
  | ReferenceForwardPart
  | LowRankPart
  | LowRankForwardPart
  | SampledPart;

export function jobOfPart(part: AnyPart): Job<unknown> {
  switch (part.kernel) {
    case 'exact':
      return part.step === 'sums' ? sumsOf(part) : forwardOf(part);
    case 'reference':
      return part.step === 'gradient' ? referenceOf(part) : referenceForwardOf(part);
    case 'low_rank':
      return part.step === 'sums' ? lowRankOf(part) : lowRankForwardOf(part);
    case 'sampled':
      return sampledOf(part);
  }
}
