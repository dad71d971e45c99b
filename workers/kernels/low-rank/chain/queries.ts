/**
 * Second pass, over the queries of a segment. With S the key sums and phi_i the features of query i,
 *
 *     D_i = phi_i.Z_1,  O_i = phi_i'Z_v / D_i,  (dS U)_i = (G_i'[phi_i'M] - (G_i.O_i) phi_i'ZU) / D_i
 *
 * and the mirror image of the key sums for the left products of the third pass,
 *
 *     N = sum_i phi_i (G_i (x) l_i)' / D_i,   sum_i phi_i (G_i.O_i) l_i' / D_i,   sum_i phi_i (G_i B_V)' / D_i
 *
 * The formula of the exact gradient is approximated, not the gradient of the approximate forward pass:
 * that one would be of one degree less. Under a causal mask the key sums run along with the rows, and
 * the diagonal block is exact.
 */
import { checkpoint } from '../../../job.js';
import type { TensorData } from '../../../tensor/tensor.js';
import { ROWS } from '../../inner/block.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import { fullWidth } from '../head/head.js';
import { type Layout, layout } from '../head/layout.js';
import { featureRows } from '../head/plan.js';
import { BLOCK, type Workspace, weightedFeatures } from '../head/rows.js';
import { type DenseColumns, denseBackward, denseColumns, denseForward, rescale } from './dense.js';
import { wholeVectors } from './exact-block.js';
import { fullSums } from './full.js';
import { keyColumns } from './keys.js';
import { openBlock, type QueryBlock } from './query-block.js';
import { addSlots, type HeadRun, recordWidth } from './run.js';
import { type WideSums, wideSums } from './wide.js';

/** Looks at every block of queries, and at the exact columns beside it. */
export interface QueryObserver {
  add(space: Workspace, at: Layout, block: QueryBlock, dense: readonly DenseColumns[]): void;
}

/** What drawn features would add to the gradients; phi (count, BLOCK): theirs, times the weights of the rows. */
export interface DrawnSums<Block> {
  add(block: Block, phi: Real): void;
  save(slot: Float64Array): void;
}

/** `state`: the sums of the other side, those of drawn features from row m on. null: none are drawn. */
export type OpenDrawn<Block> = (
  space: Workspace,
  at: Layout,
  run: HeadRun,
  state: Real,
) => DrawnSums<Block> | null;

export function queryPass(
  space: Workspace,
  run: HeadRun,
  s: number,
  certificate: QueryObserver | null,
  openDrawn: OpenDrawn<QueryBlock>,
  cancelled: () => boolean,
): void {
  const { arithmetic, head, plan } = space;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const { m } = plan;
  const all = featureRows(plan);
  const block = openBlock(space, at);
  const state = arithmetic.array(run.keySums[s].length);
  if (head.causal) addSlots(run.keySums, 0, s, state);
  else state.set(run.keyTotal);
  const packedState = arithmetic.pack(m, at.keyWidth, state);
  const wideState = state.subarray(all * at.keyWidth);
  const wideRight = wideSums(arithmetic, head, plan.hyperbolicCross.right);
  const wideLeft = wideSums(arithmetic, head, plan.hyperbolicCross.left);
  const phi = arithmetic.array(all * BLOCK);
  const left = arithmetic.array(BLOCK * at.queryWidth);
  const operand = arithmetic.pack(BLOCK, at.queryWidth, left);
  const sumBlock = arithmetic.array(all * at.queryWidth);
  const sums = arithmetic.sums(all * at.queryWidth);
  const wideBlock = arithmetic.array(run.querySums[s].length - sums.length);
  const wideTotal = arithmetic.sums(wideBlock.length);
  const gradients = gradientSums(space, at, run);
  const drawnFeatures = openDrawn(space, at, run, state);
  const toGB = valueFactor(space, at);
  const centre = arithmetic.array(head.dv);
  centre.set(plan.centreV);
  const certified = certificate !== null;
  const outliers = openOutlierKeys(space, certified);
  const diagonal = head.causal ? openDiagonal(space, at, phi, state, wideRight) : null;
  const everyOutput = head.kind === 'target' || run.attentionOutput !== null || certified;
  let sample = 0;
  let loss = 0;
  let lost = 0;
  while (run.sampled[sample] < from) sample++;

  for (let start = from; start < Math.min(to, head.queryLength); start += BLOCK) {
    checkpoint(cancelled);
    const { rows } = block;
    rows.load((r) => start + r, Math.min(BLOCK, to - start, head.queryLength - start));
    weightedFeatures(space, rows.x, rows.count, () => 1, phi);
    arithmetic.transposedProduct(BLOCK, phi, packedState, block.products);
    const dense = [outliers, diagonal?.load(start)].filter((c) => c != null && c.count > 0);
    lost += lostRows(space, at, block, state[0]);
    normalise(space, at, block, dense as DenseColumns[], (first) => {
      return everyOutput || samples(run, start + first, sample);
    });
    objectiveGradient(space, block, centre, dense as DenseColumns[]);
    toGB(rows.count, block.gradient, block.gradientB);
    wideRight?.multiply(phi, block.gradient, wideState, block.right);
    rightProducts(space, at, block);
    for (const columns of dense as DenseColumns[]) {
      denseBackward(space, block, columns);
    }
    gradients.add(block);
    loss += putOut(space, run, block, start);
    weigh(arithmetic, phi, all, block);
    drawnFeatures?.add(block, phi.subarray(m * BLOCK));
    queryColumns(space, at, block, left);
    arithmetic.repack(operand, left);
    arithmetic.product(all, phi, operand, sumBlock, true);
    arithmetic.fold(all * at.queryWidth, sumBlock, sums);
    wideLeft?.add(phi, block.gradient, rows.l, wideBlock);
    arithmetic.fold(wideBlock.length, wideBlock, wideTotal);
    certificate?.add(space, at, block, dense as DenseColumns[]);
    for (; run.sampled[sample] < start + rows.count; sample++) {
      record(space, at, run, block, sample, start);
    }
    if (diagonal) {
      keep(space, run, block, start);
      diagonal.save(run, start);
      diagonal.advance();
      arithmetic.repack(packedState, state);
    }
  }
  run.loss[s] = loss;
  run.lostRows[s] = lost;
  run.querySums[s].set(sums);
  run.querySums[s].set(wideTotal, sums.length);
  gradients.save(run.queryGradients[s]);
  drawnFeatures?.save(run.drawnGradients[s]);
  if (outliers) saveColumns(at, outliers, run.outlierLeft[s]);
}

/** Whether any of the ROWS queries from `from` on is sampled, as those before `next` were. */
function samples({ sampled }: HeadRun, from: number, next: number): boolean {
  let n = next;
  while (sampled[n] < from) n++;
  return sampled[n] < from + ROWS;
}

/** Below this share of the smallest row sum to expect, a row sum is an artefact of the polynomial. */
const LOST = 0.25;

/**
 * Rows whose low-rank row sum makes no sense. With the keys centred, the mean of exp over them is at
 * least exp of the mean (Jensen), about 1: sum_j w_j exp(score) is not much below sum_j w_j. One such row
 * can be all of the error, and no sample of rows need find it.
 */
function lostRows(space: Workspace, at: Layout, block: QueryBlock, weights: number): number {
  const { rows, products } = block;
  let lost = 0;
  for (let r = 0; r < rows.count; r++) {
    if (rows.logScale[r] === -Infinity) continue;
    const scale = Math.exp(rows.logScale[r] - space.plan.logWeightShift);
    if (!(scale * products[r * at.keyWidth] >= LOST * weights)) lost++;
  }
  return lost;
}

/** D, 1 / D, O - centre and P (X^V A_V') of the low-rank and the exact columns together. */
function normalise(
  space: Workspace,
  at: Layout,
  block: QueryBlock,
  dense: DenseColumns[],
  outputWanted: (first: number) => boolean,
): void {
  const { arithmetic, head } = space;
  const { dv } = head;
  const { rows, products, max, total, factor, inverse, weight, output, rightValue } = block;
  for (let r = 0; r < rows.count; r++) {
    // An outlier row is not this pass's business: any finite scale will do.
    max[r] = rows.logScale[r] === -Infinity ? 0 : rows.logScale[r];
    total[r] = products[r * at.keyWidth];
  }
  const width = at.keyWidth;
  arithmetic.copyColumns(rows.count, dv, products, width, at.atV, output, dv, 0);
  arithmetic.copyColumns(rows.count, at.rv, products, width, at.atVA, rightValue, at.rv, 0);
  const scale = new Float64Array(rows.count).fill(1);
  for (const columns of dense) {
    denseForward(space, block, columns, outputWanted);
    for (let r = 0; r < rows.count; r++) scale[r] *= factor[r];
    for (const earlier of dense) {
      if (earlier === columns) break;
      rescale(space, earlier, factor);
    }
  }
  for (let r = 0; r < BLOCK; r++) {
    const counts = r < rows.count && rows.logScale[r] !== -Infinity;
    inverse[r] = counts ? 1 / total[r] : 0;
    factor[r] = counts ? scale[r] : 0;
    weight[r] = factor[r] * inverse[r];
  }
  arithmetic.scaleRows(rows.count, dv, output, inverse);
  arithmetic.scaleRows(rows.count, at.rv, rightValue, weight);
}

/** G = O - Y or as given, and G.(O - centre). */
function objectiveGradient(
  space: Workspace,
  block: QueryBlock,
  centre: Real,
  dense: DenseColumns[],
): void {
  const { arithmetic, head } = space;
  const { dv, kind } = head;
  const { rows, output, gradient, shift } = block;
  const size = rows.count * dv;
  arithmetic.combine(size, 1, rows.objective, 0, gradient);
  if (kind === 'target') {
    arithmetic.combine(size, 1, output, -1, gradient);
    arithmetic.addRow(rows.count, dv, centre, gradient);
  }
  arithmetic.rowDots(rows.count, dv, gradient, output, shift);
  for (const columns of dense) {
    for (let r = 0; r < rows.count; r++) {
      if (!columns.output[Math.floor(r / ROWS)]) shift[r] += block.inverse[r] * columns.dot[r];
    }
  }
}

/** The low-rank part of dS U: (G'[phi'M] - (G.O) phi'ZU) / D; at full width `right` holds the first term. */
function rightProducts(space: Workspace, at: Layout, block: QueryBlock): void {
  const { arithmetic, head } = space;
  const { rows, products, inverse, factor, gradient, shift, right } = block;
  const { right: width } = at;
  if (width === 0) return;
  if (!fullWidth(head).scores) {
    right.fill(0);
    const ofVU = products.subarray(at.atVU);
    arithmetic.contract(rows.count, head.dv, width, gradient, ofVU, at.keyWidth, right);
  }
  for (let r = 0; r < rows.count; r++) {
    const scale = inverse[r] * factor[r];
    const from = r * at.keyWidth + at.atU;
    for (let c = 0; c < width; c++) {
      right[r * width + c] = scale * (right[r * width + c] - shift[r] * products[from + c]);
    }
  }
}

/** phi times factor / D, row by row: the features as the query sums take them. */
function weigh(arithmetic: Arithmetic, phi: Real, m: number, block: QueryBlock): void {
  arithmetic.scaleColumns(m, BLOCK, phi, block.weight, phi);
}

/** G B_V of `rows` rows of G, or at full width G itself. */
export function valueFactor(space: Workspace, at: Layout) {
  const { arithmetic, head } = space;
  const { dv } = head;
  const full = fullWidth(head).value;
  const up = full ? null : arithmetic.pack(dv, at.lv, head.value.up);
  return (rows: number, gradient: Real, gradientB: Real): void => {
    if (up) {
      if (at.lv > 0) arithmetic.product(rows, gradient, up, gradientB);
    } else {
      gradientB.set(gradient.subarray(0, rows * dv));
    }
  };
}

/** [(G.O) l | G B_V | G (x) l] (BLOCK, queryWidth), the last at thin width only. */
export function queryColumns(
  space: Workspace,
  at: Layout,
  block: Pick<QueryBlock, 'rows' | 'gradient' | 'gradientB' | 'shift'>,
  left: Real,
): void {
  const { arithmetic, head } = space;
  const { rows, gradient, gradientB, shift } = block;
  const { left: width, lv } = at;
  for (let r = 0; r < rows.count; r++) {
    const to = r * at.queryWidth;
    for (let c = 0; c < width; c++) left[to + c] = shift[r] * rows.l[r * width + c];
  }
  arithmetic.copyColumns(rows.count, lv, gradientB, lv, 0, left, at.queryWidth, at.atGB);
  if (!fullWidth(head).scores) {
    const ofGL = left.subarray(at.atGL);
    arithmetic.outer(rows.count, head.dv, width, gradient, rows.l, ofGL, at.queryWidth);
  }
}

/**
 * d lora_A_Q += (dS K B_Q)'X^Q, d lora_B_K += Q'(dS X^K A_K'), d lora_B_V += G'(P X^V A_V'). At full width both
 * gradients of the queries come from dS K, and what is of keys or values from the third pass.
 */
function gradientSums(space: Workspace, at: Layout, run: HeadRun) {
  const { arithmetic, head } = space;
  const { d, dv, query, key } = head;
  const full = fullWidth(head);
  const queries = full.query ? fullSums(space, at, 'query', run.inputs?.query ?? null) : null;
  const sizes = at.gradientSizes;
  const sums = [0, 3, 5].map((t) => arithmetic.array(sizes[t]));
  const totals = [0, 3, 5].map((t) => arithmetic.sums(sizes[t]));
  const thin = arithmetic.array(BLOCK * Math.max(query.rank, key.rank, 1));
  const thinQuery = !full.scores && query.rank > 0;
  const thinKey = !full.scores && key.rank > 0;
  const width = at.right;
  return {
    add(block: QueryBlock): void {
      const { rows, right, rightValue, gradient } = block;
      const n = rows.count;
      queries?.add({ ...rows, x: rows.xq }, right);
      if (thinQuery) {
        arithmetic.copyColumns(n, query.rank, right, width, 0, thin, query.rank, 0);
        arithmetic.transposedGemm(
          query.rank,
          query.effective.inputs,
          n,
          thin,
          rows.xq,
          sums[0],
          true,
        );
        arithmetic.fold(sizes[0], sums[0], totals[0]);
      }
      if (thinKey) {
        arithmetic.copyColumns(n, key.rank, right, width, query.rank, thin, key.rank, 0);
        arithmetic.transposedGemm(d, key.rank, n, rows.q, thin, sums[1], true);
        arithmetic.fold(sizes[3], sums[1], totals[1]);
      }
      if (at.rv > 0) {
        arithmetic.transposedGemm(dv, at.rv, n, gradient, rightValue, sums[2], true);
        arithmetic.fold(sizes[5], sums[2], totals[2]);
      }
    },
    save(slot: Float64Array): void {
      [0, 3, 5].forEach((t, i) => {
        slot.set(totals[i].subarray(0, sizes[t]), at.gradientAt[t]);
      });
      queries?.save(slot);
    },
  };
}

function openOutlierKeys(space: Workspace, certified: boolean): DenseColumns | null {
  const list = space.plan.outlierKeys;
  if (list.length === 0) return null;
  const columns = denseColumns(space, list.length, certified);
  columns.load((r) => list[r], list.length);
  return columns;
}

/** dS'L and P'(G B_V) of the columns (count, left + lv). */
function saveColumns(at: Layout, columns: DenseColumns, slot: TensorData): void {
  const { left, lv } = at;
  const width = left + lv;
  const [wideLeft, wideValue] = [wholeVectors(left), wholeVectors(lv)];
  for (let j = 0; j < columns.count; j++) {
    const to = j * width;
    for (let c = 0; c < left; c++) slot[to + c] = columns.left[j * wideLeft + c];
    for (let c = 0; c < lv; c++) slot[to + left + c] = columns.leftValue[j * wideValue + c];
  }
}

/** Under a causal mask: the exact diagonal block, after which its keys join the running key sums. */
function openDiagonal(space: Workspace, at: Layout, phi: Real, state: Real, wide: WideSums | null) {
  const { arithmetic, head, plan } = space;
  const columns = denseColumns(space, BLOCK, false, (keys, j) => space.isOutlierKey(keys.index[j]));
  const right = arithmetic.array(BLOCK * at.keyWidth);
  const wideState = state.subarray(plan.m * at.keyWidth);
  return {
    load(start: number): DenseColumns {
      columns.load((r) => start + r, Math.max(0, Math.min(BLOCK, head.keyLength - start)));
      return columns;
    },
    advance(): void {
      const { keys } = columns;
      if (keys.count === 0) return;
      keyColumns(space, at, keys, right, false);
      weightedFeatures(space, keys.z, keys.count, (r) => Math.exp(keys.logWeight[r]), phi);
      arithmetic.gemm(plan.m, at.keyWidth, BLOCK, phi, right, state, true);
      wide?.add(phi, keys.v, keys.u, wideState);
    },
    save(run: HeadRun, start: number): void {
      saveColumns(at, columns, run.causal!.left.subarray(start * (at.left + at.lv)));
    },
  };
}

/** What the backward running sums of the third pass need of each row. */
function keep(space: Workspace, run: HeadRun, block: QueryBlock, start: number): void {
  const { dv, kind } = space.head;
  const { rows: stored, output } = run.causal!;
  const { rows, factor, inverse, shift } = block;
  for (let r = 0; r < rows.count; r++) {
    stored[2 * (start + r)] = factor[r] * inverse[r];
    stored[2 * (start + r) + 1] = shift[r];
  }
  if (kind === 'target') output.set(block.output.subarray(0, rows.count * dv), start * dv);
}

/** Writes O of the rows of a block, if it is wanted, and returns 1/2 |G|^2 of them; outliers left out. */
function putOut(space: Workspace, run: HeadRun, block: QueryBlock, start: number): number {
  const { head, plan } = space;
  const { dv } = head;
  const { rows, gradient, output, inverse } = block;
  let squares = 0;
  if (head.kind !== 'target' && !run.attentionOutput) return 0;
  for (let r = 0; r < rows.count; r++) {
    if (inverse[r] === 0) continue;
    for (let a = 0; a < dv; a++) squares += gradient[r * dv + a] ** 2;
    if (!run.attentionOutput) continue;
    const to = (start + r) * head.objectiveStride + head.objectiveOffset;
    for (let a = 0; a < dv; a++) run.attentionOutput[to + a] = output[r * dv + a] + plan.centreV[a];
  }
  return squares / 2;
}

function record(
  space: Workspace,
  at: Layout,
  run: HeadRun,
  block: QueryBlock,
  sample: number,
  start: number,
): void {
  const { head } = space;
  const { dv } = head;
  const r = run.sampled[sample] - start;
  const width = recordWidth(head);
  const to = sample * width;
  run.sampledRows[to] = block.rows.logScale[r];
  run.sampledRows[to + 1] = block.max[r];
  run.sampledRows[to + 2] = block.total[r];
  for (let a = 0; a < dv; a++) run.sampledRows[to + 3 + a] = block.output[r * dv + a];
  for (let c = 0; 3 + dv + c < width; c++) {
    run.sampledRows[to + 3 + dv + c] = block.right[r * at.right + c];
  }
}
