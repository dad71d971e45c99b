/**
 * The statistical error estimate: rows drawn at random, their exact contribution minus their
 * approximate one, divided by their probability. The mean estimates the error matrix without bias.
 */
import type { Arithmetic } from '../arithmetic/arithmetic.js';
import { tensorOffset } from '../chain/chain.js';
import { tensorScale } from '../chain/gradient.js';
import type { Head } from '../head/head.js';
import { layout } from '../head/layout.js';
import { openWorkspace } from '../head/rows.js';
import type { HeadRun } from '../run.js';
import { TAIL_GROUPS } from './drawn-features/tail.js';
import type { Draw } from './sampled-rows/draw-rows.js';
import { outerProducts } from './sampled-rows/row-products.js';
import { type SampledRun, sampledGradient } from './sampled-rows/sampled.js';
import { type Stratum, statistics, type TensorEstimate } from './statistics.js';

/**
 * What the draws say about the error of tensor t. Where features are drawn there are two ways to it, the sampled
 * rows alone and the features with what the rows tell of normalisation. Which is the better depends on whether
 * the rows have something in common; the one with less scatter is taken, unless the other contradicts it.
 * `tail`: what openTail has of the tensor. `unbiased`: whatever the draws, the features.
 */
export function estimateTensor(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  draws: readonly Draw[],
  tail: Float64Array,
  t: number,
  size: number,
  unbiased: boolean,
): TensorEstimate {
  const rows = (drawn: boolean): Stratum => ({
    count: draws.length,
    estimates: rowContributions(arithmetic, runs, draws, t, size, drawn),
  });
  const drawn = runs.some(({ normalisation }) => normalisation);
  const ofRows = () => statistics(arithmetic, [rows(false)], size);
  if (!drawn) return ofRows();
  const strata = [rows(true), { count: TAIL_GROUPS, estimates: tail }];
  const ofFeatures = statistics(arithmetic, strata, size);
  if (unbiased) return ofFeatures;
  const alone = ofRows();
  const [better, other] =
    alone.deviation < ofFeatures.deviation ? [alone, ofFeatures] : [ofFeatures, alone];
  // A single feature, or row, can carry most of the error and not be among the draws.
  return other.lower > better.upper ? other : better;
}

/** Delta_i / p_i of all draws (draws, size); `drawn`: without what the features tell. */
function rowContributions(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  draws: readonly Draw[],
  t: number,
  size: number,
  drawn: boolean,
): Float64Array {
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
    const terms = outerProducts(space, sampled, state, t, drawn);
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
  return contributions;
}

/** What each group of drawn features would add to the six tensors (groups, size), of all heads. */
export function openTail(sizes: readonly number[]): Float64Array[] {
  return sizes.map((size) => new Float64Array(new SharedArrayBuffer(8 * TAIL_GROUPS * size)));
}

/** Adds the share of a head; groups of different heads are independent, and so are their sums. */
export function addTail(tail: readonly Float64Array[], { head, tailGradients }: HeadRun): void {
  const [joined] = tailGradients;
  if (!joined) return;
  const { gradientAt, gradientSizes, gradientTotal } = layout(head);
  tail.forEach((sum, t) => {
    const [offset, scale] = [tensorOffset(head, t), tensorScale(head, t)];
    for (let k = 0; k < TAIL_GROUPS; k++) {
      const to = k * (sum.length / TAIL_GROUPS) + offset;
      const from = k * gradientTotal + gradientAt[t];
      for (let i = 0; i < gradientSizes[t]; i++) sum[to + i] += scale * joined[from + i];
    }
  });
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
