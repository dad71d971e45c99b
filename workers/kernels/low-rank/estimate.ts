/**
 * The statistical error estimate: rows drawn at random, their exact contribution minus their
 * approximate one, divided by their probability. The mean estimates the error matrix without bias.
 */
import type { Arithmetic, Real } from './arithmetic.js';
import { tensorOffset } from './chain.js';
import { tensorScale } from './gradient.js';
import { fullWidth, type Head } from './head.js';
import { BLOCK, openWorkspace, type QueryRows, type Workspace } from './rows.js';
import { addSlots, recordWidth } from './run.js';
import { errorColumns, type SampledGradient, type SampledRun, sampledGradient } from './sampled.js';

/** Draws with replacement from all query rows of the batch. */
export interface Draw {
  readonly batch: number;
  /** Position in the list of sampled rows of that batch item. */
  readonly position: number;
  readonly probability: number;
}

export interface TensorEstimate {
  /** Frobenius norm of the estimated error matrix. */
  readonly norm: number;
  /** Its standard error: root mean square distance from the error matrix itself. */
  readonly standardError: number;
  /** Upper limit of the norm of the error matrix, at 99 %. */
  readonly upper: number;
  /** The estimated error matrix, to be added by those who want no bias. */
  readonly mean: Float64Array;
}

/** The contributions Delta_i / p_i of all draws to tensor t, and what they say. */
export function estimateTensor(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  draws: readonly Draw[],
  t: number,
  size: number,
): TensorEstimate {
  const n = draws.length;
  const contributions = new Float64Array(n * size);
  // Errors that heads of a batch item have in common count once.
  const added = new Set<number>();
  for (const sampled of runs) {
    const { head, plan } = sampled.run;
    const mark = arithmetic.mark();
    if (sampled.keyErrors && (t === 2 || t === 3)) {
      const { lowA, lowB } = sampled.keyErrors;
      if (t === 3 || !added.has(head.batch)) {
        const errors = t === 2 ? lowA : lowB;
        addRows(errors, sampled.run.sampled.length, head, draws, t, size, contributions);
      }
      added.add(head.batch);
      arithmetic.release(mark);
      continue;
    }
    const space = openWorkspace(arithmetic, head, plan);
    const state = sampledGradient(space, sampled);
    const terms = outerProducts(space, sampled, state, t);
    const offset = tensorOffset(head, t);
    const scale = tensorScale(head, t);
    draws.forEach((draw, k) => {
      if (draw.batch !== head.batch) return;
      const to = k * size + offset;
      for (const { left, leftWidth, right, rightWidth, transposed } of terms) {
        const rows = transposed ? rightWidth : leftWidth;
        const columns = transposed ? leftWidth : rightWidth;
        const [a, b] = transposed ? [right, left] : [left, right];
        for (let x = 0; x < rows; x++) {
          const factor = (scale / draw.probability) * a[draw.position * rows + x];
          for (let y = 0; y < columns; y++) {
            contributions[to + x * columns + y] += factor * b[draw.position * columns + y];
          }
        }
      }
    });
    arithmetic.release(mark);
  }
  return statistics(arithmetic, contributions, n, size);
}

/** Contributions that are there row by row (n, ..), those of this head's part of the tensor. */
function addRows(
  rows: Float32Array,
  n: number,
  head: Head,
  draws: readonly Draw[],
  t: number,
  size: number,
  contributions: Float64Array,
): void {
  const width = rows.length / n;
  const offset = tensorOffset(head, t);
  draws.forEach((draw, k) => {
    if (draw.batch !== head.batch) return;
    const factor = tensorScale(head, t) / draw.probability;
    const [to, from] = [k * size + offset, draw.position * width];
    for (let i = 0; i < width; i++) contributions[to + i] += factor * rows[from + i];
  });
}

/** One term left_i (x) right_i of a contribution, both (n, width). */
interface OuterProduct {
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
function outerProducts(
  space: Workspace,
  sampled: SampledRun,
  state: SampledGradient,
  t: number,
): OuterProduct[] {
  const { arithmetic } = space;
  const { head } = sampled.run;
  const { d, dv, query, key, value } = head;
  const { rows, gradient, approximate } = state;
  const n = rows.count;
  const p = query.rank + key.rank;
  const widths = errorColumns(sampled.run);
  const sum = (slots: readonly Float64Array[], width: number) => {
    const total = new Float64Array(n * width);
    addSlots(slots, 0, slots.length, total);
    return total;
  };
  if (t < 2 && fullWidth(head).scores) {
    const errors = queryErrors(space, sampled, rows, sum(sampled.scoreErrors, widths.score));
    if (t === 1) return [outer(rows.low, query.rank, errors, d, true)];
    const up = arithmetic.array(d * query.rank);
    up.set(query.up);
    const low = arithmetic.array(n * query.rank);
    arithmetic.gemm(n, query.rank, d, errors, up, low);
    return [outer(rows.xq, query.effective.inputs, low, query.rank, true)];
  }
  if (t < 4) {
    const errors = sum(sampled.scoreErrors, widths.score);
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
  const errors = sum(sampled.valueErrors, 2 * widths.value);
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
    terms.push(outer(difference.left, difference.width, rest, width, false));
  }
  return terms;
}

/** Errors of rows of dQ (n, d) at full width, turned back, from the exact rows of dS U. */
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
  vectors.set(plan.cross.right!.vectors);
  const back = arithmetic.array(d * d);
  arithmetic.transpose(d, d, vectors, back);
  const result = arithmetic.array(n * d);
  arithmetic.gemm(n, d, d, errors, back, result);
  rows.rotation?.back(n, result);
  return result;
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

/**
 * Standard deviations between the U-statistic and the upper limit: of a normal distribution when all draws
 * weigh alike, and more of them the fewer draws carry the sum, since what carries most of the error may
 * then not be among them.
 */
const DEVIATIONS = 2.58;
const UNEVEN_DEVIATIONS = 6;

/**
 * From n independent unbiased estimates D_k (n, size) of a matrix E.
 *
 * |mean|^2 is |E|^2 plus the noise of the mean, which for a sample of few rows is most of it. The mean U
 * of D_k.D_l over pairs k != l has no such bias. Its variance by Hoeffding's decomposition,
 * 4 zeta_1 / n + 2 zeta_2 / (n (n - 1)), zeta_1 of the means over l and zeta_2 of the pairs, is taken from
 * the same products, and |E|^2 <= U + c deviations. The plainer |mean| + 2.58 standard errors holds as
 * well: the smaller of the two is the upper limit.
 */
export function statistics(
  arithmetic: Arithmetic,
  contributions: Float64Array,
  n: number,
  size: number,
): TensorEstimate {
  const mean = new Float64Array(size);
  let largest = 0;
  for (const x of contributions) largest = Math.max(largest, Math.abs(x));
  if (n < 3 || largest === 0) return { norm: 0, standardError: 0, upper: 0, mean };
  for (let k = 0; k < n; k++) {
    for (let i = 0; i < size; i++) mean[i] += contributions[k * size + i] / n;
  }
  const gram = gramMatrix(arithmetic, contributions, n, size, largest);
  let [squares, fourth, pairs, pairSquares] = [0, 0, 0, 0];
  const rowSums = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    for (let l = 0; l < n; l++) {
      const product = gram[k * n + l];
      if (k === l) {
        squares += product;
        fourth += product * product;
      } else {
        rowSums[k] += product;
        pairSquares += product * product;
      }
    }
    pairs += rowSums[k];
  }
  const total = squares + pairs;
  const meanSquare = Math.max(0, total / (n * n));
  const standardError = Math.sqrt(Math.max(0, squares / n - meanSquare) / (n - 1));
  const pairCount = n * (n - 1);
  const statistic = pairs / pairCount;
  let spread = 0;
  for (const row of rowSums) spread += (row / (n - 1) - statistic) ** 2;
  const zeta2 = Math.max(0, pairSquares / pairCount - statistic ** 2);
  const zeta1 = Math.max(0, (spread - zeta2) / (n - 1));
  const deviation = Math.sqrt((4 * zeta1) / n + (2 * zeta2) / pairCount);
  // The number of draws that would weigh as much if all were alike, as a share of n.
  const even = (squares * squares) / (n * fourth);
  const deviations = DEVIATIONS + UNEVEN_DEVIATIONS * (1 - even);
  const norm = Math.sqrt(meanSquare);
  const unbiased = Math.sqrt(Math.max(0, statistic) + deviations * deviation);
  return {
    norm: norm * largest,
    standardError: standardError * largest,
    upper: Math.min(unbiased, norm + 2.58 * standardError) * largest,
    mean,
  };
}

/** D D' (n, n) of the contributions over `scale`. */
function gramMatrix(
  arithmetic: Arithmetic,
  contributions: Float64Array,
  n: number,
  size: number,
  scale: number,
): Float64Array {
  const gram = new Float64Array(n * n);
  const mark = arithmetic.mark();
  const width = Math.min(size, 1024);
  const part = arithmetic.array(n * width);
  const turned = arithmetic.array(width * n);
  const product = arithmetic.array(n * n);
  for (let from = 0; from < size; from += width) {
    const count = Math.min(width, size - from);
    for (let k = 0; k < n; k++) {
      for (let i = 0; i < count; i++) {
        part[k * count + i] = contributions[k * size + from + i] / scale;
      }
    }
    arithmetic.transpose(n, count, part, turned);
    arithmetic.gemm(n, n, count, part, turned, product);
    for (let i = 0; i < n * n; i++) gram[i] += product[i];
  }
  arithmetic.release(mark);
  return gram;
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
  const squares = (x: Real, width: number, shift: Float64Array | null) => {
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
