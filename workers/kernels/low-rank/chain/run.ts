/** Shared memory of the run of one head: what the stages hand to each other. */

import type { Checkpoint } from '../../../job.js';
import type { Lease } from '../../../tensor/shared-memory.js';
import { sharedFloat32, sharedFloat64 } from '../../result.js';
import { fullWidth, type Head } from '../head/head.js';
import { layout, type Segment, segments, sumSizes } from '../head/layout.js';
import type { HeadPlan } from '../head/plan.js';
import { DRAWN_GROUPS } from '../head/plan.js';
import { NORMS_OF_ROW, SQUARES } from './rounding.js';

/** Score of a pair that the causal mask hides, and the running maximum of a row that saw nothing yet. */
export const MASKED = -1e30;
export const EMPTY = -1e29;

/**
 * One slot per segment; a task writes its own slot, later stages add the slots up in their order.
 */
export interface HeadRun {
  readonly head: Head;
  readonly plan: HeadPlan;
  readonly segments: readonly Segment[];
  /** (featureRows, keyWidth), (featureRows, queryWidth), each followed by the sums at full width. */
  readonly keySums: readonly Float64Array[];
  readonly querySums: readonly Float64Array[];
  /** The sums of all segments; not used under a causal mask, where every segment sees another sum. */
  readonly keyTotal: Float64Array;
  readonly queryTotal: Float64Array;
  /** Outlier queries: (n, exactWidth). */
  readonly outlierRows: readonly Float64Array[];
  /** The same of all segments together. */
  readonly joinedRows: Float64Array;
  /** dS U of the outlier queries (n, right). */
  readonly outlierRight: readonly Float64Array[];
  /** TermSums of the outlier queries (n, SQUARES). */
  readonly outlierTerms: readonly Float64Array[];
  /** dS'L and P'(G B_V) of the outlier keys (n, left + lv), from the other queries. */
  readonly outlierLeft: readonly Float64Array[];
  readonly joinedLeft: Float64Array;
  /** Sums over the outlier queries of squaredTerms, one for each tensor and in its scale, then that of squaredOutputTerms. */
  readonly asideTerms: Float64Array;
  /** The six gradients, from the stage over the queries and from the stage over the keys. */
  readonly queryGradients: readonly Float64Array[];
  readonly keyGradients: readonly Float64Array[];
  /** The six gradients that each group of drawn features would add (groups, gradientTotal), unscaled. */
  readonly drawnGradients: readonly Float64Array[];
  /** Where features are drawn: sums of the rows of X^K and of X^V of each segment (inputs + inputs). */
  readonly inputSums: readonly Float64Array[];
  readonly causal: CausalMemory | null;
  /** When gradients of the inputs are wanted. */
  readonly inputs: InputMemory | null;
  /** O of the batch item, laid out as the objective; null: not wanted. */
  readonly attentionOutput: Float32Array | null;
  /** 1/2 ||G||^2 of the rows of each segment, and behind them that of the outlier queries. */
  readonly loss: Float64Array;
  /** Rows of each segment whose row sum the features lost: the answer is worth nothing. */
  readonly lostRows: Float64Array;
  /** Rows whose statistics the stage over the queries records, in rising order. */
  readonly sampled: Int32Array;
  /** (sampled, recordWidth): what recordWidth says. */
  readonly sampledRows: Float64Array;
}

/** Gradients before the projections of a head, of every row; outliers among them. */
interface InputMemory {
  /** dS K (queryLength, d), dS'Q (keyLength, d), without beta and rotated back; P'G (keyLength, dv). */
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
}

/**
 * Columns recorded of a sampled row: log scale of the low-rank part, running maximum, row sum,
 * O~ - centre (dv) and, at full width, dS~ U (d).
 */
export function recordWidth(head: Head): number {
  return 3 + head.dv + (fullWidth(head).query ? head.d : 0);
}

/** Columns of an exact row: running maximum, total, and unnormalised [V | X^V A_V' | norms]. */
export function exactWidth({ dv, value }: Head): number {
  return 2 + dv + value.rank + NORMS_OF_ROW;
}

/** What a causal run keeps for every row, since the sums over queries run backwards. */
interface CausalMemory {
  /** dS'L and P'(G B_V) from the diagonal blocks (keyLength, left + lv). */
  readonly left: Float32Array;
  /** Weight of the row's features and G.O (queryLength, 2). */
  readonly rows: Float64Array;
  /** O - centre (queryLength, dv), only when the gradient G depends on it. */
  readonly output: Float32Array;
}

/** n numbers for each of so many segments; they are not cleared. */
export function leaseSlots(memory: Lease, count: number, n: number): Float64Array[] {
  return divide(memory.float64(count * n), count, n);
}

function divide(block: Float64Array, count: number, n: number): Float64Array[] {
  return Array.from({ length: count }, (_, s) => block.subarray(s * n, (s + 1) * n));
}

/** @param memory of the sums and of the exact rows and columns, which nobody wants after the passes. */
export function openRun(
  head: Head,
  plan: HeadPlan,
  sampled: Int32Array,
  attentionOutput: Float32Array | null,
  memory: Lease,
): HeadRun {
  const at = layout(head);
  const sums = sumSizes(head, plan);
  const cut = segments(head, plan);
  const slots = (n: number) => cut.map(() => sharedFloat64(n));
  const leased = (n: number) => leaseSlots(memory, cut.length, n);
  const keySums = memory.float64(Math.max(sums.key, head.causal ? 0 : sums.query) * cut.length);
  // Without a mask the key sums are added up before the first query sum is there: one memory does for both.
  const querySums = head.causal ? memory.float64(sums.query * cut.length) : keySums;
  const nq = plan.outlierQueries.length;
  const nk = plan.outlierKeys.length;
  return {
    head,
    plan,
    segments: cut,
    keySums: divide(keySums, cut.length, sums.key),
    querySums: divide(querySums, cut.length, sums.query),
    keyTotal: memory.float64(head.causal ? 0 : sums.key),
    queryTotal: memory.float64(head.causal ? 0 : sums.query),
    outlierRows: leased(nq * exactWidth(head)),
    joinedRows: memory.float64(nq * exactWidth(head)),
    outlierRight: leased(nq * at.right),
    outlierTerms: leased(nq * SQUARES),
    asideTerms: sharedFloat64(at.gradientSizes.length + 1),
    outlierLeft: leased(nk * (at.left + at.lv)),
    joinedLeft: memory.float64(nk * (at.left + at.lv)),
    queryGradients: slots(at.gradientTotal),
    keyGradients: slots(at.gradientTotal),
    // The estimate reads them when the memory of this run has gone to the next heads.
    inputSums: plan.drawnFeatures
      ? slots(head.key.effective.inputs + head.value.effective.inputs)
      : [],
    drawnGradients: plan.drawnFeatures ? leased(DRAWN_GROUPS * at.gradientTotal) : [],
    causal: head.causal
      ? {
          left: sharedFloat32(head.keyLength * (at.left + at.lv)),
          rows: sharedFloat64(2 * head.queryLength),
          output: sharedFloat32(head.kind === 'target' ? head.queryLength * head.dv : 0),
        }
      : null,
    inputs: head.inputGradients
      ? {
          query: sharedFloat32(head.queryLength * head.d),
          key: sharedFloat32(head.keyLength * head.d),
          value: sharedFloat32(head.keyLength * head.dv),
        }
      : null,
    attentionOutput,
    loss: sharedFloat64(cut.length + 1),
    lostRows: sharedFloat64(cut.length),
    sampled,
    sampledRows: sharedFloat64(sampled.length * recordWidth(head)),
  };
}

/** Numbers that are added between two checkpoints. */
const ADDED = 2 ** 16;

/** Sum of the slots [from, to), added to `to` in their order. */
export function addSlots(
  checkpoint: Checkpoint,
  slots: readonly Float64Array[],
  from: number,
  until: number,
  sum: Float64Array | Float32Array,
): void {
  const n = slots[0].length;
  const total = new Float64Array(n);
  for (const slot of slots.slice(from, until)) {
    for (let first = 0; first < n; first += ADDED) {
      checkpoint();
      const last = Math.min(n, first + ADDED);
      for (let i = first; i < last; i++) total[i] += slot[i];
    }
  }
  sum.set(total);
}
