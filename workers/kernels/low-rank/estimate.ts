/**
 * The statistical error estimate: rows drawn at random, their exact contribution minus their
 * approximate one, divided by their probability. The mean estimates the error matrix without bias.
 */
import type { Arithmetic } from './arithmetic.js';
import { tensorOffset } from './chain.js';
import type { Draw } from './draw-rows.js';
import { tensorScale } from './gradient.js';
import type { Head } from './head.js';
import { layout } from './layout.js';
import { outerProducts } from './row-products.js';
import { openWorkspace } from './rows.js';
import { type SampledRun, sampledGradient } from './sampled.js';
import { type Stratum, statistics, type TensorEstimate } from './statistics.js';
import { TAIL_GROUPS } from './tail.js';

/**
 * What the draws say about the error of tensor t. Where features are drawn there are two ways to it, the sampled
 * rows alone and the features with what the rows tell of normalisation. Which is the better depends on whether
 * the rows have something in common; the one with less scatter is taken, unless the other contradicts it.
 * `unbiased`: whatever the draws, the features.
 */
export function estimateTensor(
  arithmetic: Arithmetic,
  runs: readonly SampledRun[],
  draws: readonly Draw[],
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
  const strata = [rows(true), tailEstimates(runs, t, size)];
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

/** What the groups of drawn features would add to tensor t; rows are independent of them. */
function tailEstimates(runs: readonly SampledRun[], t: number, size: number): Stratum {
  const estimates = new Float64Array(TAIL_GROUPS * size);
  for (const { run } of runs) {
    const { gradientAt, gradientSizes, gradientTotal } = layout(run.head);
    const [offset, scale] = [tensorOffset(run.head, t), tensorScale(run.head, t)];
    for (const slot of run.tailGradients) {
      for (let k = 0; k < TAIL_GROUPS; k++) {
        const [to, from] = [k * size + offset, k * gradientTotal + gradientAt[t]];
        for (let i = 0; i < gradientSizes[t]; i++) estimates[to + i] += scale * slot[from + i];
      }
    }
  }
  return { count: TAIL_GROUPS, estimates };
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
