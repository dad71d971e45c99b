/** What the sampled rows add to the gradient tensors: outer products of left factors and row errors. */
import type { Arithmetic, Real } from '../../arithmetic/arithmetic.js';
import { addSlots, recordWidth } from '../../chain/run.js';
import { fullWidth } from '../../head/head.js';
import type { QueryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { conditionalMeanRows, inputMeans } from '../drawn-features/conditional-mean.js';
import { errorColumns } from './error-columns.js';
import { mixedScoreErrors, mixedValueErrors } from './mixed-rows.js';
import type { SampledGradient, SampledRun } from './sampled-run.js';

/** One term left_i (x) right_i of a contribution, both (n, width). */
export interface OuterProduct {
  readonly left: ArrayLike<number>;
  readonly leftWidth: number;
  readonly right: ArrayLike<number>;
  readonly rightWidth: number;
  /** Whether the tensor is (right, left): lora_A_Q = (dS K B_Q)'X^Q. */
  readonly transposed: boolean;
}

/**
 * Left factor and row error of tensor t:
 * X^Q, dS K B_Q; X^Q A_Q', dS K; Q B_K, dS X^K; Q, dS X^K A_K'; G B_V, P X^V; G, P X^V A_V'.
 */
export function outerProducts(
  space: Workspace,
  sampled: SampledRun,
  state: SampledGradient,
  t: number,
): OuterProduct[] {
  const { arithmetic, plan } = space;
  const { head } = sampled.run;
  const { d, dv, query, key, value } = head;
  const { rows, gradient, approximate } = state;
  const n = rows.count;
  const p = query.rank + key.rank;
  const widths = errorColumns(sampled.run);
  const sum = (slots: readonly Float64Array[], width: number) => {
    const total = new Float64Array(n * width);
    addSlots(arithmetic.checkpoint, slots, 0, slots.length, total);
    return total;
  };
  if (t < 2 && fullWidth(head).scores) {
    const errors = queryErrors(space, sampled, rows, sum(sampled.errors.score, widths.score));
    if (t === 1) return [outer(rows.low, query.rank, errors, d, true)];
    const up = arithmetic.array(d * query.rank);
    up.set(query.up);
    const low = arithmetic.array(n * query.rank);
    arithmetic.gemm(n, query.rank, d, errors, up, low);
    return [outer(rows.xq, query.effective.inputs, low, query.rank, true)];
  }
  const { u, key: ofKey, inputsK, va, inputsV } = plan.conditionalMean;
  const centres = plan.drawnFeatures
    ? rowCentres(space, rows, t < 4 ? [u, ofKey, inputsK] : [va, inputsV])
    : null;
  if (t < 4) {
    const errors = centres
      ? mixedScoreErrors(arithmetic.checkpoint, sampled, state)
      : sum(sampled.errors.score, widths.score);
    centres?.take(errors, widths.score, 0, widths.score - 1);
    const part = (from: number, width: number) => columns(n, errors, widths.score, from, width);
    const low = (from: number, width: number) => columns(n, rows.l, p, from, width);
    const wide = p + (query.rank > 0 ? d : 0);
    switch (t) {
      case 0:
        return [outer(rows.xq, query.effective.inputs, part(0, query.rank), query.rank, true)];
      case 1:
        return [outer(low(0, query.rank), query.rank, part(p, d), d, true)];
      case 2:
        return [
          outer(
            low(query.rank, key.rank),
            key.rank,
            part(wide, key.effective.inputs),
            key.effective.inputs,
            false,
          ),
        ];
      default:
        return [outer(rows.q, d, part(query.rank, key.rank), key.rank, false)];
    }
  }
  const errors = centres
    ? mixedValueErrors(arithmetic.checkpoint, sampled)
    : sum(sampled.errors.value, 2 * widths.value);
  // The centres are part of (G - G~) P~ X.
  centres?.take(errors, 2 * widths.value, widths.value, widths.value - 1, 1);
  centres?.take(errors, 2 * widths.value, 0, widths.value - 1);
  const { inputs } = value.effective;
  const [from, width] = t === 4 ? [value.rank, inputs] : [0, value.rank];
  const leftOf = (g: Real): { left: Real; width: number } => {
    if (t === 5) return { left: g, width: dv };
    const up = arithmetic.array(dv * value.rank);
    up.set(value.up);
    const gb = arithmetic.array(n * value.rank);
    arithmetic.gemm(n, value.rank, dv, g, up, gb);
    return { left: gb, width: value.rank };
  };
  const exact = leftOf(gradient);
  const right = columns(n, errors, 2 * widths.value, from, width);
  const terms = [outer(exact.left, exact.width, right, width, false)];
  if (head.kind === 'target') {
    // G P X - G~ P~ X = G (P - P~) X + (G - G~) P~ X.
    const difference = leftOf(subtract(arithmetic, gradient, approximate));
    const rest = columns(n, errors, 2 * widths.value, widths.value + from, width);
    if (plan.drawnFeatures) {
      // These rows of P~ X were centred.
      const means = inputMeans(sampled.run);
      const centre = t === 4 ? means.xv : means.va;
      for (let i = 0; i < rest.length; i++) rest[i] += centre[i % width];
    }
    terms.push(outer(difference.left, difference.width, rest, width, false));
  }
  return terms;
}

/** Errors of rows of dQ (n, d) at full width, rotated back, from the exact rows of dS U. */
function queryErrors(
  { arithmetic, plan, isOutlierQuery }: Workspace,
  { run }: SampledRun,
  rows: QueryRows,
  exact: Float64Array,
): Real {
  const { d, dv } = run.head;
  const n = rows.count;
  const width = recordWidth(run.head);
  const errors = arithmetic.array(n * d);
  for (let i = 0; i < n; i++) {
    // Outlier rows are exact in the chain too.
    if (isOutlierQuery(run.sampled[i])) continue;
    for (let c = 0; c < d; c++) {
      errors[i * d + c] = exact[i * d + c] - run.sampledRows[i * width + 3 + dv + c];
    }
  }
  const vectors = arithmetic.array(d * d);
  vectors.set(plan.hyperbolicCross.right!.vectors);
  const back = arithmetic.array(d * d);
  arithmetic.transpose(d, d, vectors, back);
  const result = arithmetic.array(n * d);
  arithmetic.gemm(n, d, d, errors, back, result);
  rows.rotation?.back(n, result);
  return result;
}

/** The centres y_i of the sampled rows (conditionalMean.ts), of the columns that the matrices belong to. */
function rowCentres(space: Workspace, rows: QueryRows, matrices: readonly Float64Array[]) {
  const { arithmetic, head } = space;
  const { d } = head;
  const n = rows.count;
  const predicted = conditionalMeanRows(space, n);
  predicted.load(rows);
  const width = matrices.reduce((sum, { length }) => sum + length / d, 0);
  const y = new Float64Array(n * width);
  let first = 0;
  for (const matrix of matrices) {
    const columns = matrix.length / d;
    const part = arithmetic.array(n * columns);
    const right = arithmetic.array(matrix.length);
    right.set(matrix);
    arithmetic.gemm(n, columns, d, predicted.x, right, part);
    for (let i = 0; i < n; i++) {
      y.set(part.subarray(i * columns, (i + 1) * columns), i * width + first);
    }
    first += columns;
  }
  return {
    /** errors[i, from + c] -= (sum of row i, in column `sums`) y[i, c]; `sign` 1 adds. */
    take(errors: Float64Array, stride: number, from: number, sums: number, sign = -1): void {
      for (let i = 0; i < n; i++) {
        const s = sign * errors[i * stride + sums];
        for (let c = 0; c < width; c++) errors[i * stride + from + c] += s * y[i * width + c];
      }
    },
  };
}

function outer(
  left: ArrayLike<number>,
  leftWidth: number,
  right: ArrayLike<number>,
  rightWidth: number,
  transposed: boolean,
): OuterProduct {
  return { left, leftWidth, right, rightWidth, transposed };
}

function subtract(arithmetic: Arithmetic, a: Real, b: Real): Real {
  const difference = arithmetic.array(a.length);
  for (let i = 0; i < a.length; i++) difference[i] = a[i] - b[i];
  return difference;
}

function columns(
  n: number,
  x: ArrayLike<number>,
  stride: number,
  from: number,
  width: number,
): Float64Array {
  const out = new Float64Array(n * width);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < width; c++) out[i * width + c] = x[i * stride + from + c];
  }
  return out;
}
