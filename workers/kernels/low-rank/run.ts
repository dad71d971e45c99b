/** Shared memory of the run of one head: what the stages hand to each other. */
import { type Cancelled, CancelledError } from '../job.js';
import type { Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { layout, type Segment, segments } from './layout.js';

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
  /** (m, keyWidth), (m, queryWidth). */
  readonly keySums: readonly Float64Array[];
  readonly querySums: readonly Float64Array[];
  /** The sums of all segments; not used under a causal mask, where every segment sees another sum. */
  readonly keyTotal: Float64Array;
  readonly queryTotal: Float64Array;
  /** Outlier queries: (n, 2 + dv + r_v): running maximum, total, unnormalised [V | X^V A_V']. */
  readonly outlierRows: readonly Float64Array[];
  /** dS U of the outlier queries (n, p). */
  readonly outlierRight: readonly Float64Array[];
  /** dS'L and P'(G B_V) of the outlier keys (n, p + r_v), from the other queries. */
  readonly outlierLeft: readonly Float64Array[];
  /** The six gradients, from the stage over the queries and from the stage over the keys. */
  readonly queryGradients: readonly Float64Array[];
  readonly keyGradients: readonly Float64Array[];
  readonly causal: CausalMemory | null;
  /** O of the batch item, laid out as the objective; null: not wanted. */
  readonly attentionOutput: Float32Array | Float64Array | null;
  /** 1/2 ||G||^2 of the rows of each segment, and behind them that of the outlier queries. */
  readonly loss: Float64Array;
  /** Rows of each segment whose row sum the features lost: the answer is worth nothing. */
  readonly lostRows: Float64Array;
  /** Rows whose statistics the stage over the queries records, in rising order. */
  readonly sampled: Int32Array;
  /** (sampled, 3 + dv): log scale of the low-rank part, running maximum, row sum, O~ - centre. */
  readonly sampledRows: Float64Array;
}

/** What a causal run keeps for every row, since the sums over queries run backwards. */
export interface CausalMemory {
  /** dS'L and P'(G B_V) from the diagonal blocks (keyLength, p + r_v). */
  readonly left: Float32Array | Float64Array;
  /** Weight of the row's features and G.O (queryLength, 2). */
  readonly rows: Float64Array;
  /** O - centre (queryLength, dv), only when the gradient G depends on it. */
  readonly output: Float32Array | Float64Array;
}

const float64 = (n: number) => new Float64Array(new SharedArrayBuffer(8 * n));

export function openRun(
  head: Head,
  plan: HeadPlan,
  sampled: Int32Array,
  single: boolean,
  attentionOutput: Float32Array | Float64Array | null,
): HeadRun {
  const at = layout(head);
  const cut = segments(head, plan);
  const slots = (n: number) => cut.map(() => float64(n));
  const nq = plan.outlierQueries.length;
  const nk = plan.outlierKeys.length;
  const real = (n: number) =>
    single ? new Float32Array(new SharedArrayBuffer(4 * n)) : float64(n);
  return {
    head,
    plan,
    segments: cut,
    keySums: slots(plan.m * at.keyWidth),
    querySums: slots(plan.m * at.queryWidth),
    keyTotal: float64(head.causal ? 0 : plan.m * at.keyWidth),
    queryTotal: float64(head.causal ? 0 : plan.m * at.queryWidth),
    outlierRows: slots(nq * (2 + head.dv + at.rv)),
    outlierRight: slots(nq * at.p),
    outlierLeft: slots(nk * (at.p + at.rv)),
    queryGradients: slots(at.gradientTotal),
    keyGradients: slots(at.gradientTotal),
    causal: head.causal
      ? {
          left: real(head.keyLength * (at.p + at.rv)),
          rows: float64(2 * head.queryLength),
          output: real(head.kind === 'target' ? head.queryLength * head.dv : 0),
        }
      : null,
    attentionOutput,
    loss: float64(cut.length + 1),
    lostRows: float64(cut.length),
    sampled,
    sampledRows: float64(sampled.length * (3 + head.dv)),
  };
}

/** Sum of the slots [from, to), added to `to` in their order. */
export function addSlots(
  slots: readonly Float64Array[],
  from: number,
  until: number,
  sum: Float64Array | Float32Array,
): void {
  const n = slots[0].length;
  const total = new Float64Array(n);
  for (let s = from; s < until; s++) {
    const slot = slots[s];
    for (let i = 0; i < n; i++) total[i] += slot[i];
  }
  sum.set(total);
}

/** @throws {CancelledError} when the result is not wanted any more. */
export function checkpoint(cancelled: Cancelled): void {
  if (cancelled()) throw new CancelledError();
}
