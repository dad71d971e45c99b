/**
 * The statistical error estimate: rows drawn at random, their exact contribution minus their
 * approximate one, divided by their probability. The mean estimates the error matrix without bias.
 */
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { SQUARES, scaleRows, squaredTerms } from '../chain/rounding.js';
import { addSlots } from '../chain/run.js';
import type { Head } from '../head/head.js';
import { DRAWN_GROUPS } from '../head/plan.js';
import { tensorOffset, tensorScale } from '../head/tensors.js';
import { openWorkspace, type Workspace } from '../head/workspace.js';
import type { Draw, Draws } from './sampled-rows/draw-rows.js';
import { rowSums } from './sampled-rows/mixed-rows.js';
import { type OuterProduct, outerProducts } from './sampled-rows/row-products.js';
import {
  type SampledGradient,
  type SampledRun,
  sampledGradient,
} from './sampled-rows/sampled-run.js';
import { type Estimates, meanOf, spreadOf } from './statistics.js';
import { NO_SCATTER, scatterOf, type TensorEstimate } from './tensor-estimate.js';

/**
 * What the draws say about the error of tensor t. Where features are drawn, the estimate is what they would add, and from
 * the rows what is left. `drawnFeatures`: what openDrawnGradients has of the tensor.
 */
export function estimateTensor(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  { draws, complete }: Draws,
  drawnFeatures: Float64Array,
  t: number,
  size: number,
): TensorEstimate {
  const { contributions, terms } = rowContributions(arithmetic, runs, draws, t, size);
  const ofRows = meanOf(arithmetic, contributions, size);
  const scatter = (
    estimates: Estimates,
    { mean, ...of }: typeof ofRows,
    others: typeof mean | null,
  ) => scatterOf(of, estimates.count, spreadOf(arithmetic, estimates, mean, others));
  const rows = (others: Float64Array | null) =>
    complete ? NO_SCATTER : scatter(contributions, ofRows, others);
  if (drawnFeatures.length === 0) {
    return { mean: ofRows.mean, rows: rows(null), features: null, terms };
  }
  const groups = { count: DRAWN_GROUPS, values: drawnFeatures };
  const ofFeatures = meanOf(arithmetic, groups, size);
  return {
    mean: ofRows.mean.map((x, i) => x + ofFeatures.mean[i]),
    rows: rows(ofFeatures.mean),
    // Every group has all features.
    features: scatter(groups, { ...ofFeatures, unseen: 0 }, ofRows.mean),
    terms,
  };
}

/**
 * Delta_i / p_i of all draws (draws, size), and the root of the estimated sum over rows of the squares of what they carry:
 * heads are rounded apart from each other.
 */
function rowContributions(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  draws: readonly Draw[],
  t: number,
  size: number,
): { contributions: Estimates; terms: number } {
  const count = draws.length;
  const values = new Float64Array(count * size);
  let squares = 0;
  // Errors that heads of a batch item have in common count once.
  const added = new Set<number>();
  for (const sampled of runs) {
    const { head, plan } = sampled.run;
    const mark = arithmetic.mark();
    const space = openWorkspace(arithmetic, head, plan);
    const state = sampledGradient(space, sampled);
    squares += sampled.run.asideTerms[t] + sumOfSquares(space, sampled, state, draws, t);
    if (sampled.keyErrors && (t === 2 || t === 3)) {
      const { lowA, lowB } = sampled.keyErrors;
      if (t === 3 || !added.has(head.batch)) {
        const errors = t === 2 ? lowA : lowB;
        addRows(arithmetic, errors, sampled.run.sampled.length, head, draws, t, size, values);
      }
      added.add(head.batch);
    } else {
      const products = outerProducts(space, sampled, state, t);
      addProducts(arithmetic, products, head, draws, t, size, values);
    }
    arithmetic.release(mark);
  }
  return { contributions: { count, values }, terms: Math.sqrt(squares) };
}

/** The estimated sum over all rows of a head that are not set aside, in the scale of tensor t. */
function sumOfSquares(
  space: Workspace,
  sampled: SampledRun,
  state: SampledGradient,
  draws: readonly Draw[],
  t: number,
): number {
  const { terms } = sampled;
  const { sampled: list } = sampled.run;
  const { arithmetic, head, plan, isOutlierQuery } = space;
  const sums = new Float64Array(list.length * SQUARES);
  addSlots(arithmetic.checkpoint, terms, 0, terms.length, sums);
  if (plan.drawnFeatures) {
    const overSum = rowSums(arithmetic.checkpoint, sampled).map((rho) => 1 / rho);
    scaleRows(list.length, SQUARES, sums, overSum);
  }
  const squares = squaredTerms(space, sums, state, t);
  const scale = tensorScale(head, t) ** 2 / draws.length;
  let sum = 0;
  for (const { batch, position, probability } of draws) {
    if (batch !== head.batch || isOutlierQuery(list[position])) continue;
    sum += (scale * squares[position]) / probability;
  }
  return sum;
}

/** Visits the draws that have rows of a head. @param visit told where what the head adds to tensor t begins, and its weight. */
function eachDraw(
  { checkpoint }: Arithmetic,
  head: Head,
  draws: readonly Draw[],
  t: number,
  size: number,
  visit: (position: number, to: number, weight: number) => void,
): void {
  const offset = tensorOffset(head, t);
  const scale = tensorScale(head, t);
  draws.forEach(({ batch, position, probability }, k) => {
    checkpoint();
    if (batch === head.batch) visit(position, k * size + offset, scale / probability);
  });
}

function addProducts(
  arithmetic: Arithmetic,
  products: readonly OuterProduct[],
  head: Head,
  draws: readonly Draw[],
  t: number,
  size: number,
  contributions: Float64Array,
): void {
  eachDraw(arithmetic, head, draws, t, size, (position, to, weight) => {
    for (const { left, leftWidth, right, rightWidth, transposed } of products) {
      const rows = transposed ? rightWidth : leftWidth;
      const columns = transposed ? leftWidth : rightWidth;
      const [a, b] = transposed ? [right, left] : [left, right];
      for (let x = 0; x < rows; x++) {
        const factor = weight * a[position * rows + x];
        for (let y = 0; y < columns; y++) {
          contributions[to + x * columns + y] += factor * b[position * columns + y];
        }
      }
    }
  });
}

/** What each group of drawn features would add to the six tensors (groups, size), of all heads. */
export function openDrawnGradients(sizes: readonly number[]): Float64Array[] {
  return sizes.map((size) => new Float64Array(new SharedArrayBuffer(8 * DRAWN_GROUPS * size)));
}

/** Contributions that are there row by row (n, ..), those of this head's part of the tensor. */
function addRows(
  arithmetic: Arithmetic,
  rows: Float32Array,
  n: number,
  head: Head,
  draws: readonly Draw[],
  t: number,
  size: number,
  contributions: Float64Array,
): void {
  const width = rows.length / n;
  eachDraw(arithmetic, head, draws, t, size, (position, to, weight) => {
    const from = position * width;
    for (let i = 0; i < width; i++) contributions[to + i] += weight * rows[from + i];
  });
}
