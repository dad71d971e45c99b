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
import { ROWS } from '../../../inner/block.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { BlockSums } from '../../arithmetic/block-sums.js';
import { BLOCK } from '../../head/block.js';
import { type Layout, layout } from '../../head/layout.js';
import { featureRows } from '../../head/plan.js';
import { weightedFeatures } from '../../head/rows/weighted-features.js';
import type { Workspace } from '../../head/workspace.js';
import { type DenseColumns, denseBackward } from '../dense.js';
import { addSlots, type HeadRun, recordWidth } from '../run.js';
import { wideSums } from '../wide.js';
import { openBlock, type QueryBlock } from './query-block.js';
import {
  lostRows,
  normalise,
  objectiveGradient,
  queryColumns,
  rightProducts,
  valueFactor,
  weigh,
} from './query-products.js';
import { gradientSums, openDiagonal, openOutlierKeys, saveColumns } from './query-sums.js';

/** Looks at every block of queries, and at the exact columns beside it. */
interface QueryObserver {
  add(space: Workspace, at: Layout, block: QueryBlock, dense: readonly DenseColumns[]): void;
}

/** What drawn features would add to the gradients; phi (count, BLOCK): theirs, times the weights of the rows. */
interface DrawnSums<Block> {
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
): void {
  const { arithmetic, head, plan } = space;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const { m } = plan;
  const all = featureRows(plan);
  const block = openBlock(space, at);
  const state = arithmetic.array(run.keySums[s].length);
  if (head.causal) addSlots(arithmetic.checkpoint, run.keySums, 0, s, state);
  else state.set(run.keyTotal);
  const packedState = arithmetic.pack(m, at.keyWidth, state);
  const wideState = state.subarray(all * at.keyWidth);
  const wideRight = wideSums(arithmetic, head, plan.hyperbolicCross.right);
  const wideLeft = wideSums(arithmetic, head, plan.hyperbolicCross.left);
  const phi = arithmetic.array(all * BLOCK);
  const features = weightedFeatures(space);
  const left = arithmetic.array(BLOCK * at.queryWidth);
  const operand = arithmetic.pack(BLOCK, at.queryWidth, left);
  const sums = new BlockSums(arithmetic, all * at.queryWidth);
  const wideSum = new BlockSums(arithmetic, run.querySums[s].length - sums.length);
  const gradients = gradientSums(space, at, run);
  const drawnFeatures = openDrawn(space, at, run, state);
  const toGB = valueFactor(space, at);
  const centre = arithmetic.array(head.dv);
  centre.set(plan.centreV);
  const certified = certificate !== null;
  const outliers = openOutlierKeys(space, certified);
  const diagonal = head.causal ? openDiagonal(space, at, features, phi, state, wideRight) : null;
  const everyOutput = head.kind === 'target' || run.attentionOutput !== null || certified;
  let sample = 0;
  let loss = 0;
  let lost = 0;
  while (run.sampled[sample] < from) sample++;

  for (let start = from; start < Math.min(to, head.queryLength); start += BLOCK) {
    const { rows } = block;
    rows.load((r) => start + r, Math.min(BLOCK, to - start, head.queryLength - start));
    features(rows.x, rows.count, () => 1, phi);
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
    arithmetic.product(all, phi, operand, sums.block, true);
    sums.next();
    wideLeft?.add(phi, block.gradient, rows.l, wideSum.block);
    wideSum.next();
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
  run.querySums[s].set(sums.total());
  run.querySums[s].set(wideSum.total(), sums.length);
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
