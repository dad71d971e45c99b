/** Floating-point operations of both kernels; a multiply-add counts as two. */
import type { Head } from './head.js';
import { type Layout, layout } from './layout.js';

/** Flops per second that each kernel reaches on this machine, one thread. */
export interface Rates {
  readonly exact: number;
  readonly lowRank: number;
}

export interface HeadCost {
  readonly flops: number;
  readonly exactFlops: number;
  /** flops = linear L + quadratic L^2 when the outliers keep their share; exactFlops = exact L^2. */
  readonly linear: number;
  readonly quadratic: number;
  readonly exact: number;
}

/** What a row costs beside products (exponentials, features, copies), expressed in flops. */
const ROW_OVERHEAD = 60_000;

/** Measured: what exact rows and columns beside the chain cost over their flops at its rate. */
const OUTLIER_OVERHEAD = 1.5;

export function headCost(
  head: Head,
  m: number,
  outlierQueries: number,
  outlierKeys: number,
  sampledRows: number,
): HeadCost {
  const at = layout(head);
  const { d, dv, queryLength: nq, keyLength: nk, query, key, value } = head;
  const pairs = visible(head);
  const chain = 2 * m * (nk + nq) * (at.keyWidth + at.queryWidth) * (head.causal ? 1.5 : 1);
  const projections =
    2 *
    (nq * rowWork(query.effective.inputs, d) +
      2 * nk * (rowWork(key.effective.inputs, d) + rowWork(value.effective.inputs, dv)));
  const diagonal = head.causal ? 128 * nq * pairWork(at, d, dv) : 0;
  const seen = pairs / nk;
  const sampled = samplingFlops(head, sampledRows) + 2 * sampledRows * nk * m;
  const outliers =
    OUTLIER_OVERHEAD *
    (outlierQueries * (pairs / nq) + outlierKeys * seen) *
    pairWork(at, d, 2 * dv);
  const linear = chain + projections + diagonal + sampled + ROW_OVERHEAD * (nq + 2 * nk);
  const exactFlops = pairs * pairWork(at, d, head.kind === 'target' ? 2 * dv : dv);
  const length = Math.sqrt(nq * nk);
  return {
    flops: linear + outliers,
    exactFlops,
    linear: linear / length,
    quadratic: outliers / length ** 2,
    exact: exactFlops / length ** 2,
  };
}

/** Exact rows of P twice, and the errors multiplied out, for the sampled rows; without the features. */
export function samplingFlops(head: Head, sampledRows: number): number {
  const { d, dv, keyLength, query, key, value } = head;
  const { p, rv } = layout(head);
  const score = p + (query.rank > 0 ? d : 0) + (key.rank > 0 ? key.effective.inputs : 0);
  const values = rv > 0 ? rv + value.effective.inputs : 0;
  return 2 * sampledRows * keyLength * (2 * d + 3 * dv + rv + score + values);
}

const rowWork = (inputs: number, width: number) => inputs * width + width * width;

/** One score, its dP, and the thin products: 2 d + 2 dv + 4 (r_q + r_k) + 4 r_v. */
function pairWork(at: Layout, d: number, values: number): number {
  return 2 * d + 2 * values + 4 * at.p + 4 * at.rv;
}

/** Pairs (i, j) that the softmax covers. */
function visible(head: Head): number {
  const { queryLength: nq, keyLength: nk } = head;
  if (!head.causal) return nq * nk;
  const triangle = Math.min(nq, nk);
  return (triangle * (triangle + 1)) / 2 + (nq - triangle) * nk;
}
