/** The gradients of one head, from what its passes left in shared memory. */
import type { TensorData } from '../../../tensor/tensor.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import { fullWidth } from '../head/head.js';
import { layout } from '../head/layout.js';
import { TENSORS, tensorScale } from '../head/tensors.js';
import { openWorkspace } from '../head/workspace.js';
import { fullSums } from './full.js';
import { outlierGradient } from './queries/outlier-queries.js';
import { SQUARES, squaredOutputTerms, squaredTerms } from './rounding.js';
import { addSlots, type HeadRun } from './run.js';

/** They are joined in the first slot of the queries', those of the drawn features in their own first slot. */
export function headGradients(arithmetic: Arithmetic, run: HeadRun): void {
  const { head, plan } = run;
  const at = layout(head);
  const total = new Float64Array(at.gradientTotal);
  addSlots(
    arithmetic.checkpoint,
    [...run.queryGradients, ...run.keyGradients],
    0,
    2 * run.segments.length,
    total,
  );
  const part = (all: Float64Array, t: number) =>
    all.subarray(at.gradientAt[t], at.gradientAt[t] + at.gradientSizes[t]);
  const slice = (t: number) => part(total, t);
  if (plan.outlierQueries.length > 0) {
    const mark = arithmetic.mark();
    const space = openWorkspace(arithmetic, head, plan);
    const { rows, gradient, va, output, norms } = outlierGradient(space, run);
    let squares = 0;
    for (const g of gradient) squares += g * g;
    run.loss[run.segments.length] = squares / 2;
    plan.outlierQueries.forEach((row, i) => {
      const to = row * head.objectiveStride + head.objectiveOffset;
      for (let a = 0; run.attentionOutput && a < head.dv; a++) {
        run.attentionOutput[to + a] = output[i * head.dv + a] + plan.centreV[a];
      }
    });
    const right = arithmetic.array(plan.outlierQueries.length * at.right);
    addSlots(arithmetic.checkpoint, run.outlierRight, 0, run.segments.length, right);
    const { query, key, d, dv } = head;
    const n = rows.count;
    const terms = new Float64Array(n * SQUARES);
    addSlots(arithmetic.checkpoint, run.outlierTerms, 0, run.segments.length, terms);
    TENSORS.forEach((_, t) => {
      const squares = squaredTerms(space, terms, { rows, gradient }, t);
      run.asideTerms[t] = tensorScale(head, t) ** 2 * sumOf(squares);
    });
    run.asideTerms[TENSORS.length] = sumOf(squaredOutputTerms(head, rows, norms));
    const full = fullWidth(head);
    if (full.query) {
      const sums = fullSums(space, at, 'query', run.inputs?.query ?? null, n);
      sums.add({ ...rows, x: rows.xq }, right);
      const outliers = new Float64Array(at.gradientTotal);
      sums.save(outliers);
      for (let i = 0; i < total.length; i++) total[i] += outliers[i];
    }
    if (!full.scores) {
      const thinKey = subColumns(n, right, at.right, query.rank, key.rank);
      addOuter(n, right, at.right, 0, query.rank, rows.xq, query.effective.inputs, slice(0));
      addOuter(n, rows.q, d, 0, d, thinKey, key.rank, slice(3));
    }
    addOuter(n, gradient, dv, 0, dv, va, at.rv, slice(5));
    arithmetic.release(mark);
  }
  run.queryGradients[0].set(total);
  const joined = [run.queryGradients[0]];
  if (run.drawnGradients.length > 0) {
    const [drawnFeatures] = run.drawnGradients;
    addSlots(
      arithmetic.checkpoint,
      run.drawnGradients,
      0,
      run.drawnGradients.length,
      drawnFeatures,
    );
    for (let from = 0; from < drawnFeatures.length; from += at.gradientTotal) {
      joined.push(drawnFeatures.subarray(from, from + at.gradientTotal));
    }
  }
  for (const all of joined) {
    TENSORS.forEach((_, t) => {
      const scale = tensorScale(head, t);
      const of = part(all, t);
      for (let i = 0; i < of.length; i++) of[i] *= scale;
    });
  }
}

const sumOf = (x: Float64Array) => x.reduce((a, b) => a + b, 0);

function subColumns(n: number, x: Real, stride: number, from: number, width: number): Float64Array {
  const out = new Float64Array(n * width);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < width; c++) out[i * width + c] = x[i * stride + from + c];
  }
  return out;
}

/** c (width, columns) += a[:, from : from + width]' b for a (n, stride), b (n, columns). */
function addOuter(
  n: number,
  a: TensorData,
  stride: number,
  from: number,
  width: number,
  b: TensorData,
  columns: number,
  c: Float64Array,
): void {
  for (let i = 0; i < n; i++) {
    for (let x = 0; x < width; x++) {
      const ax = a[i * stride + from + x];
      for (let y = 0; y < columns; y++) c[x * columns + y] += ax * b[i * columns + y];
    }
  }
}
